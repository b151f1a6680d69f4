package main

import (
	"context"
	"errors"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var concurrencyVerbs = map[string]handler{
	"open_session":  verb(openSession),
	"close_session": verb(closeSession),
	"drop_session":  verb(dropSession),
	"lock":          verb(lock),
	"try_lock":      verb(tryLock),
	"unlock":        verb(unlock),
	"owned_put":     verb(ownedPut),
	"campaign":      verb(campaign),
	"proclaim":      verb(proclaim),
	"resign":        verb(resign),
	"leader":        verb(leader),
	"observe":       verb(observe),
	"stm_add":       verb(stmAdd),
	"proceed":       verb(proceed),
}

// A session is a concurrency.Session with a client of its own, and everything that was locked with it.
type session struct {
	*concurrency.Session
	client *clientv3.Client

	mutex     sync.Mutex // of the maps
	mutexes   map[string]*concurrency.Mutex
	elections map[string]*concurrency.Election
	rwMutexes map[string]*recipe.RWMutex
	barriers  map[string]*recipe.DoubleBarrier
}

type openArguments struct {
	Session string `json:"session"` // the name for other commands
	TTL     int    `json:"ttl"`     // seconds
}

type sessionArguments struct {
	Session string `json:"session"`
}

type sessionResult struct {
	Lease int64 `json:"lease"`
}

// openSession writes "opened", lasts as long as the session, and ends with "done" once its lease is not renewed any
// more: it was closed, dropped, revoked or has expired.
func openSession(c *call, a openArguments) (any, error) {
	if _, err := c.session(a.Session); err == nil {
		return nil, status.Errorf(codes.AlreadyExists, "session %q is open", a.Session)
	}
	client, err := newClient(c.server.urls)
	if err != nil {
		return nil, err
	}
	opened, err := concurrency.NewSession(client, concurrency.WithTTL(a.TTL))
	if err != nil {
		client.Close()
		return nil, err
	}
	one := &session{
		Session:   opened,
		client:    client,
		mutexes:   map[string]*concurrency.Mutex{},
		elections: map[string]*concurrency.Election{},
		rwMutexes: map[string]*recipe.RWMutex{},
		barriers:  map[string]*recipe.DoubleBarrier{},
	}
	c.server.mutex.Lock()
	c.server.sessions[a.Session] = one
	c.server.mutex.Unlock()
	c.emit("opened", sessionResult{int64(opened.Lease())})
	select {
	case <-opened.Done():
	case <-c.ctx.Done():
	}
	return sessionResult{int64(opened.Lease())}, nil
}

func (c *call) session(name string) (*session, error) {
	c.server.mutex.Lock()
	defer c.server.mutex.Unlock()
	if one, found := c.server.sessions[name]; found {
		return one, nil
	}
	return nil, status.Errorf(codes.NotFound, "session %q is not open", name)
}

func (s *server) takeSession(name string) *session {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	one := s.sessions[name]
	delete(s.sessions, name)
	return one
}

// closeSession revokes the lease.
func closeSession(c *call, a sessionArguments) (any, error) {
	one := c.server.takeSession(a.Session)
	if one == nil {
		return nil, status.Errorf(codes.NotFound, "session %q is not open", a.Session)
	}
	defer one.client.Close()
	return nil, one.Close()
}

// dropSession closes the connection and leaves the lease to its TTL, as the end of a process does.
func dropSession(c *call, a sessionArguments) (any, error) {
	one := c.server.takeSession(a.Session)
	if one == nil {
		return nil, status.Errorf(codes.NotFound, "session %q is not open", a.Session)
	}
	one.Orphan()
	return nil, one.client.Close()
}

// closeSessions closes all sessions concurrently, each within closeTimeout.
func (s *server) closeSessions() {
	s.mutex.Lock()
	open := s.sessions
	s.sessions = map[string]*session{}
	s.mutex.Unlock()
	var group sync.WaitGroup
	for _, one := range open {
		group.Add(1)
		go func() {
			defer group.Done()
			one.Orphan()
			ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
			defer cancel()
			_, _ = one.client.Revoke(ctx, one.Lease()) // it may have expired
			one.client.Close()
		}()
	}
	group.Wait()
}

// of returns the object of a session with a name, which is made at its first use.
func of[T any](one *session, known map[string]T, name string, create func() T) T {
	one.mutex.Lock()
	defer one.mutex.Unlock()
	found, exists := known[name]
	if !exists {
		found = create()
		known[name] = found
	}
	return found
}

// -- Mutex

type nameArguments struct {
	Session string `json:"session"`
	Name    string `json:"name"`
}

type heldResult struct {
	Key            string `json:"key"`
	CreateRevision int64  `json:"create_revision"`
	HeaderRevision int64  `json:"header_revision"`
	Lease          int64  `json:"lease"`
}

func (c *call) mutexOf(a nameArguments) (*session, *concurrency.Mutex, error) {
	one, err := c.session(a.Session)
	if err != nil {
		return nil, nil, err
	}
	return one, of(one, one.mutexes, a.Name, func() *concurrency.Mutex {
		return concurrency.NewMutex(one.Session, a.Name)
	}), nil
}

func heldMutex(one *session, mutex *concurrency.Mutex) heldResult {
	return heldResult{mutex.Key(), revisionIn(mutex.IsOwner()), mutex.Header().Revision, int64(one.Lease())}
}

func lock(c *call, a nameArguments) (any, error) {
	one, mutex, err := c.mutexOf(a)
	if err != nil {
		return nil, err
	}
	if err := mutex.Lock(c.ctx); err != nil {
		return nil, err
	}
	return heldMutex(one, mutex), nil
}

type tryResult struct {
	Held *heldResult `json:"held"` // null if another session holds the lock
}

func tryLock(c *call, a nameArguments) (any, error) {
	one, mutex, err := c.mutexOf(a)
	if err != nil {
		return nil, err
	}
	err = mutex.TryLock(c.ctx)
	if errors.Is(err, concurrency.ErrLocked) {
		return tryResult{nil}, nil
	}
	if err != nil {
		return nil, err
	}
	held := heldMutex(one, mutex)
	return tryResult{&held}, nil
}

func unlock(c *call, a nameArguments) (any, error) {
	_, mutex, err := c.mutexOf(a)
	if err != nil {
		return nil, err
	}
	return nil, mutex.Unlock(c.ctx)
}

type ownedPutArguments struct {
	Session string `json:"session"`
	Name    string `json:"name"`
	Key     []byte `json:"key"`
	Value   []byte `json:"value"`
}

// ownedPut writes a key if the mutex is still held (Mutex.IsOwner).
func ownedPut(c *call, a ownedPutArguments) (any, error) {
	_, mutex, err := c.mutexOf(nameArguments{a.Session, a.Name})
	if err != nil {
		return nil, err
	}
	write := clientv3.OpPut(string(a.Key), string(a.Value))
	done, err := c.server.client.Txn(c.ctx).If(mutex.IsOwner()).Then(write).Commit()
	if err != nil {
		return nil, err
	}
	return txnResult{done.Succeeded, done.Header.Revision, [][]keyValue{}}, nil
}

// -- Election

type valueArguments struct {
	Session string `json:"session"`
	Name    string `json:"name"`
	Value   string `json:"value"`
}

func (c *call) electionOf(sessionName, name string) (*session, *concurrency.Election, error) {
	one, err := c.session(sessionName)
	if err != nil {
		return nil, nil, err
	}
	return one, of(one, one.elections, name, func() *concurrency.Election {
		return concurrency.NewElection(one.Session, name)
	}), nil
}

func campaign(c *call, a valueArguments) (any, error) {
	one, election, err := c.electionOf(a.Session, a.Name)
	if err != nil {
		return nil, err
	}
	if err := election.Campaign(c.ctx, a.Value); err != nil {
		return nil, err
	}
	return heldResult{election.Key(), election.Rev(), election.Header().Revision, int64(one.Lease())}, nil
}

func proclaim(c *call, a valueArguments) (any, error) {
	_, election, err := c.electionOf(a.Session, a.Name)
	if err != nil {
		return nil, err
	}
	if err := election.Proclaim(c.ctx, a.Value); err != nil {
		return nil, err
	}
	return writeResult{election.Header().Revision, 0}, nil
}

func resign(c *call, a nameArguments) (any, error) {
	_, election, err := c.electionOf(a.Session, a.Name)
	if err != nil {
		return nil, err
	}
	return nil, election.Resign(c.ctx)
}

func leader(c *call, a nameArguments) (any, error) {
	_, election, err := c.electionOf(a.Session, a.Name)
	if err != nil {
		return nil, err
	}
	found, err := election.Leader(c.ctx)
	if err != nil {
		return nil, err
	}
	return keyValueOf(found.Kvs[0]), nil
}

// observe writes "led" for each leader and each proclaimed value, until it is cancelled.
func observe(c *call, a nameArguments) (any, error) {
	one, err := c.session(a.Session)
	if err != nil {
		return nil, err
	}
	for found := range concurrency.NewElection(one.Session, a.Name).Observe(c.ctx) {
		c.emit("led", keyValueOf(found.Kvs[0]))
	}
	return c.end("the observation ended")
}

// -- STM

type stmArguments struct {
	Add       map[string]int64 `json:"add"`       // what to add to the number in each key; an absent key is 0
	Isolation string           `json:"isolation"` // empty for serializable snapshot, Go's default
	Hold      bool             `json:"hold"`      // wait between the reads and the commit for the verb proceed
	Minimum   *int64           `json:"minimum"`   // refuse the transaction if a number would be lower
}

type stmResult struct {
	Revision int64            `json:"revision"`
	Attempts int64            `json:"attempts"`
	Values   map[string]int64 `json:"values"`
}

var isolations = map[string]concurrency.Isolation{
	"":                      concurrency.SerializableSnapshot,
	"serializable-snapshot": concurrency.SerializableSnapshot,
	"serializable":          concurrency.Serializable,
	"repeatable-reads":      concurrency.RepeatableReads,
	"read-committed":        concurrency.ReadCommitted,
}

// stmAdd adds to several numbers in one software transaction, which is repeated on a conflict.  With hold, it writes
// "attempted" after the reads of each attempt and waits for the verb proceed.
func stmAdd(c *call, a stmArguments) (any, error) {
	isolation, known := isolations[a.Isolation]
	if !known {
		return nil, status.Errorf(codes.InvalidArgument, "unknown isolation %q", a.Isolation)
	}
	result := stmResult{}
	gate := c.server.gate(c.id)
	defer c.server.removeGate(c.id)
	done, err := concurrency.NewSTM(c.server.client, func(stm concurrency.STM) error {
		result.Attempts++
		result.Values = map[string]int64{}
		for key, more := range a.Add {
			var number int64
			if text := stm.Get(key); text != "" {
				parsed, err := strconv.ParseInt(text, 10, 64)
				if err != nil {
					return err
				}
				number = parsed
			}
			number += more
			if a.Minimum != nil && number < *a.Minimum {
				return status.Errorf(codes.FailedPrecondition, "%s would be %d", key, number)
			}
			result.Values[key] = number
		}
		if a.Hold {
			c.emit("attempted", stmResult{0, result.Attempts, result.Values})
			select {
			case <-gate:
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
		}
		for key, number := range result.Values {
			stm.Put(key, strconv.FormatInt(number, 10))
		}
		return nil
	}, concurrency.WithIsolation(isolation), concurrency.WithAbortContext(c.ctx))
	if err != nil {
		return nil, err
	}
	result.Revision = done.Header.Revision
	return result, nil
}

// gate returns the channel on which a command waits for the verb proceed.
func (s *server) gate(id int64) chan struct{} {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.gates[id] = make(chan struct{})
	return s.gates[id]
}

func (s *server) removeGate(id int64) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.gates, id)
}

// proceed lets a command go on that waits, or the next time that it waits.
func proceed(c *call, a cancelArguments) (any, error) {
	c.server.mutex.Lock()
	gate, found := c.server.gates[a.ID]
	c.server.mutex.Unlock()
	if !found {
		return nil, status.Errorf(codes.NotFound, "command %d does not wait", a.ID)
	}
	select {
	case gate <- struct{}{}:
		return nil, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

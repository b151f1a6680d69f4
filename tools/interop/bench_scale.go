package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// The work of getc's cases of scale, as a Go program does it: see tools/bench/worker/scale.py.  Nodes are kept on the
// leases of sessions, a thousand keys each as in getc: a put on a lease of many keys is slow on etcd 3.5.1 (1 ms with
// 8,000).  The loss of a single key is not noticed.

const (
	settleTime     = time.Second
	keptTTL        = 10 // seconds
	keysPerSession = 1_000
	maxConcurrent  = 200
	answerTime     = time.Minute
)

// residentBytes returns the resident memory of this process after a garbage collection.  Linux only.
func residentBytes() (float64, error) {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	return float64(pages * os.Getpagesize()), err
}

// A messageCounter counts the messages that are sent: unary requests, and messages on streams.
type messageCounter struct{ count atomic.Int64 }

func (m *messageCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (m *messageCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (m *messageCounter) HandleConn(context.Context, stats.ConnStats) {}
func (m *messageCounter) HandleRPC(_ context.Context, event stats.RPCStats) {
	if _, sent := event.(*stats.OutPayload); sent {
		m.count.Add(1)
	}
}

// runAll calls a function with the numbers up to count, some concurrently, and returns the seconds.
func runAll(count int, run func(number int) error) (float64, error) {
	begin := time.Now()
	var next, failed atomic.Int64
	var first atomic.Pointer[error]
	var group sync.WaitGroup
	for range min(maxConcurrent, count) {
		group.Add(1)
		go func() {
			defer group.Done()
			for failed.Load() == 0 {
				number := int(next.Add(1)) - 1
				if number >= count {
					return
				}
				if err := run(number); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		}()
	}
	group.Wait()
	if err := first.Load(); err != nil {
		return 0, *err
	}
	return time.Since(begin).Seconds(), nil
}

// startAndWeigh starts something for count keys, after half as many others that fill memory which the process has
// already allocated; it returns the seconds, and the memory of each in bytes.
func startAndWeigh(count int, start func(key string) error) (seconds, each float64, err error) {
	if _, err = runAll(count/2, func(number int) error { return start(fmt.Sprintf("/bench/before/%d", number)) }); err != nil {
		return
	}
	time.Sleep(settleTime)
	before, err := residentBytes()
	if err != nil {
		return
	}
	seconds, err = runAll(count, func(number int) error { return start(fmt.Sprintf("/bench/scale/%d", number)) })
	if err != nil {
		return
	}
	time.Sleep(settleTime)
	after, err := residentBytes()
	return seconds, (after - before) / float64(count), err
}

// A sessionPool opens a session for every keysPerSession keys.
type sessionPool struct {
	client *clientv3.Client
	mutex  sync.Mutex
	keys   int
	open   []*concurrency.Session
}

// take returns the session of one more key.
func (p *sessionPool) take() (*concurrency.Session, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.keys%keysPerSession == 0 {
		session, err := concurrency.NewSession(p.client, concurrency.WithTTL(keptTTL))
		if err != nil {
			return nil, err
		}
		p.open = append(p.open, session)
	}
	p.keys++
	return p.open[len(p.open)-1], nil
}

func keepers(ctx context.Context, urls []string, r request) (answer, error) {
	counter := &messageCounter{}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   urls,
		DialTimeout: dialTimeout,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithStatsHandler(counter)},
	})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	sessions := &sessionPool{client: client}
	register, each, err := startAndWeigh(r.Count, func(key string) error {
		session, err := sessions.take()
		if err != nil {
			return err
		}
		_, err = client.Put(ctx, key, "10.0.0.7:7000", clientv3.WithLease(session.Lease()))
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, err := client.Delete(ctx, "/bench/before/", clientv3.WithPrefix()); err != nil {
		return nil, err
	}
	time.Sleep(keptTTL * time.Second / 2)
	sent, cpu, begin := counter.count.Load(), cpuSeconds(), time.Now()
	time.Sleep(time.Duration(r.Seconds * float64(time.Second)))
	seconds := time.Since(begin).Seconds()
	sent, cpu = counter.count.Load()-sent, cpuSeconds()-cpu
	kept, err := client.Get(ctx, "/bench/scale/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return nil, err
	}
	if kept.Count != int64(r.Count) {
		return nil, fmt.Errorf("%d of %d nodes are kept", kept.Count, r.Count)
	}
	goroutines := runtime.NumGoroutine()
	begin = time.Now()
	if _, err := runAll(len(sessions.open), func(number int) error { return sessions.open[number].Close() }); err != nil {
		return nil, err
	}
	return answer{
		"register":  register,
		"each":      each,
		"requests":  float64(sent) / seconds,
		"cpu_share": cpu / seconds,
		"greenlets": goroutines,
		"close":     time.Since(begin).Seconds(),
	}, nil
}

func watchers(ctx context.Context, urls []string, r request) (answer, error) {
	client, err := newClient(urls)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var seen atomic.Int64
	follow := func(key string) error {
		channel := client.Watch(ctx, key)
		go func() {
			for response := range channel {
				seen.Add(int64(len(response.Events)))
			}
		}()
		return nil
	}
	// callbacksPerSecond writes and waits until each write was seen by as many watchers.
	callbacksPerSecond := func(writes, each int, key func(number int) string) (float64, error) {
		seen.Store(0)
		begin := time.Now()
		if _, err := runAll(writes, func(number int) error {
			_, err := client.Put(ctx, key(number), strconv.Itoa(number))
			return err
		}); err != nil {
			return 0, err
		}
		for seen.Load() < int64(writes*each) {
			if time.Since(begin) > answerTime {
				return 0, fmt.Errorf("%d of %d events after %v", seen.Load(), writes*each, answerTime)
			}
			time.Sleep(time.Millisecond)
		}
		return float64(seen.Load()) / time.Since(begin).Seconds(), nil
	}
	register, each, err := startAndWeigh(r.Count, follow)
	if err != nil {
		return nil, err
	}
	toOne, err := callbacksPerSecond(max(r.Calls/10, 3), 1, func(number int) string {
		return fmt.Sprintf("/bench/scale/%d", number%r.Count)
	})
	if err != nil {
		return nil, err
	}
	before, err := residentBytes()
	if err != nil {
		return nil, err
	}
	if _, err := runAll(r.Count, func(int) error { return follow("/bench/all") }); err != nil {
		return nil, err
	}
	time.Sleep(settleTime)
	after, err := residentBytes()
	if err != nil {
		return nil, err
	}
	goroutines := runtime.NumGoroutine()
	toAll, err := callbacksPerSecond(max(r.Calls/r.Count, 3), r.Count, func(int) string { return "/bench/all" })
	if err != nil {
		return nil, err
	}
	return answer{
		"register":  register,
		"each":      each,
		"each_same": (after - before) / float64(r.Count),
		"to_one":    toOne,
		"to_all":    toAll,
		"greenlets": goroutines,
	}, nil
}

func directory(ctx context.Context, urls []string, r request) (answer, error) {
	client, err := newClient(urls)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	base, err := residentBytes()
	if err != nil {
		return nil, err
	}
	prefix, value := fmt.Sprintf("/bench/directory/%d/", r.Count), strings.Repeat("x", 64)
	if _, err := runAll(r.Count, func(number int) error {
		_, err := client.Put(ctx, fmt.Sprintf("%s%06d", prefix, number), value)
		return err
	}); err != nil {
		return nil, err
	}
	begin := time.Now()
	found, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	got := time.Since(begin).Seconds()
	held, err := residentBytes()
	if err != nil {
		return nil, err
	}
	if len(found.Kvs) != r.Count {
		return nil, fmt.Errorf("%d nodes of %d", len(found.Kvs), r.Count)
	}
	found = nil
	// Follow the directory: read it, call a function for each node, and watch it from then on.
	begin = time.Now()
	var first, last float64
	callback := func(_, _ []byte) {
		if last = time.Since(begin).Seconds(); first == 0 {
			first = last
		}
	}
	initial, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	for _, kv := range initial.Kvs {
		callback(kv.Key, kv.Value)
	}
	channel := client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(initial.Header.Revision+1))
	go func() {
		for range channel {
		}
	}()
	initial = nil
	followed, err := residentBytes()
	if err != nil {
		return nil, err
	}
	if _, err := client.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
		return nil, err
	}
	return answer{
		"get":      got,
		"held":     (held - base) / float64(r.Count),
		"first":    first,
		"last":     last,
		"followed": (followed - base) / float64(r.Count),
	}, nil
}

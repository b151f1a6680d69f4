package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// A request selects what is measured; see tools/bench/worker/__main__.py, which does the same in Python.
type request struct {
	Work     string  `json:"work"`
	InFlight int     `json:"in_flight"`
	Size     int     `json:"size"`
	Seconds  float64 `json:"seconds"`
	Prefix   string  `json:"prefix"`
	Index    int64   `json:"index"`
	Count    int     `json:"count"`
	Times    int     `json:"times"`
	Calls    int     `json:"calls"`
}

type answer map[string]any

// lockTTL is the TTL of the session whose mutexes are measured, in seconds.
const lockTTL = 60

// A worker measures one client, with one connection for everything, and one session for all locks.
type worker struct {
	urls    []string
	client  *clientv3.Client
	session *concurrency.Session
	written map[string]bool
	held    []clientv3.WatchChan
}

// bench executes requests until the input ends.
func bench(urls []string, input io.Reader, output io.Writer) error {
	client, err := newClient(urls)
	if err != nil {
		return err
	}
	defer client.Close()
	w := &worker{urls: urls, client: client, written: map[string]bool{}}
	answers := json.NewEncoder(output)
	if err := answers.Encode(versions()); err != nil {
		return err
	}
	lines := bufio.NewScanner(input)
	for lines.Scan() {
		var next request
		var found answer
		err := json.Unmarshal(lines.Bytes(), &next)
		begin := cpuSeconds()
		if err == nil {
			found, err = w.run(context.Background(), next)
		}
		cpu := cpuSeconds() - begin
		if err != nil {
			found = answer{"error": err.Error()}
		}
		if laps, ok := found["laps"].([]time.Duration); ok {
			delete(found, "laps")
			slices.Sort(laps)
			found["p50"] = laps[len(laps)/2].Seconds()
			found["p99"] = laps[len(laps)*99/100].Seconds()
		}
		found["cpu"] = cpu
		if err := answers.Encode(found); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (w *worker) run(ctx context.Context, r request) (answer, error) {
	switch r.Work {
	case "get", "tree-get":
		return w.get(ctx, r)
	case "set":
		return w.set(ctx, r)
	case "tree-set":
		return w.guardedSet(ctx, r)
	case "lock":
		return w.lock(ctx, r)
	case "connect":
		return w.connect(ctx, r)
	case "replay", "live":
		return w.watch(ctx, r)
	case "memory":
		return w.memory(ctx, r)
	case "keepers":
		return keepers(ctx, w.urls, r)
	case "watchers":
		return watchers(ctx, w.urls, r)
	case "directory":
		return directory(ctx, w.urls, r)
	}
	return answer{"unsupported": "Go's row has no " + r.Work}, nil
}

// cpuSeconds returns the CPU time of this process, in all threads, by user and system.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return float64(usage.Utime.Sec+usage.Stime.Sec) + float64(usage.Utime.Usec+usage.Stime.Usec)/1e6
}

// -- calls

func keyOf(size, worker int) string {
	return fmt.Sprintf("/bench/%d/%d", size, worker)
}

// prepare writes the key of each goroutine unless it exists.
func (w *worker) prepare(ctx context.Context, size, inFlight int) ([]string, error) {
	keys := []string{}
	for number := range max(inFlight, 1) {
		key := keyOf(size, number)
		keys = append(keys, key)
		if !w.written[key] {
			if _, err := w.client.Put(ctx, key, strings.Repeat("x", size)); err != nil {
				return nil, err
			}
			w.written[key] = true
		}
	}
	return keys, nil
}

// repeat makes each call again and again, all calls concurrently, until the time is over.
func repeat(seconds float64, calls []func() error) (answer, error) {
	begin := time.Now()
	end := begin.Add(time.Duration(seconds * float64(time.Second)))
	laps := make([][]time.Duration, len(calls))
	errors := make([]error, len(calls))
	var group sync.WaitGroup
	for number, call := range calls {
		group.Add(1)
		go func() {
			defer group.Done()
			for last := time.Now(); ; {
				if errors[number] = call(); errors[number] != nil {
					return
				}
				now := time.Now()
				laps[number] = append(laps[number], now.Sub(last))
				if last = now; !now.Before(end) {
					return
				}
			}
		}()
	}
	group.Wait()
	elapsed := time.Since(begin).Seconds()
	for _, err := range errors {
		if err != nil {
			return nil, err
		}
	}
	all := slices.Concat(laps...)
	return answer{"operations": len(all), "seconds": elapsed, "laps": all}, nil
}

func (w *worker) get(ctx context.Context, r request) (answer, error) {
	keys, err := w.prepare(ctx, r.Size, r.InFlight)
	if err != nil {
		return nil, err
	}
	calls := []func() error{}
	for _, key := range keys {
		calls = append(calls, func() error { return checkedGet(ctx, w.client, key, r.Size) })
	}
	return repeat(r.Seconds, calls)
}

func checkedGet(ctx context.Context, client *clientv3.Client, key string, size int) error {
	found, err := client.Get(ctx, key)
	if err != nil {
		return err
	}
	if len(found.Kvs) != 1 || len(found.Kvs[0].Value) != size {
		return fmt.Errorf("got %d keys where a value of size %d was set", len(found.Kvs), size)
	}
	return nil
}

func (w *worker) set(ctx context.Context, r request) (answer, error) {
	keys, err := w.prepare(ctx, r.Size, r.InFlight)
	if err != nil {
		return nil, err
	}
	value := strings.Repeat("x", r.Size)
	calls := []func() error{}
	for _, key := range keys {
		calls = append(calls, func() error {
			_, err := w.client.Put(ctx, key, value)
			return err
		})
	}
	return repeat(r.Seconds, calls)
}

// guardedSet sends the transaction of getc's set.
func (w *worker) guardedSet(ctx context.Context, r request) (answer, error) {
	keys, err := w.prepare(ctx, r.Size, r.InFlight)
	if err != nil {
		return nil, err
	}
	value := strings.Repeat("x", r.Size)
	calls := []func() error{}
	for _, key := range keys {
		compares, failure := guardsOf(key)
		calls = append(calls, func() error {
			put := clientv3.OpPut(key, value, clientv3.WithPrevKV())
			done, err := w.client.Txn(ctx).If(compares...).Then(put).Else(failure...).Commit()
			if err == nil && !done.Succeeded {
				err = fmt.Errorf("the transaction on %s was refused", key)
			}
			return err
		})
	}
	return repeat(r.Seconds, calls)
}

// guardsOf returns the compares of getc's set, and the reads with which it finds out which of them failed: no ancestor is
// a value, no ancestor has a TTL that the key would have to share, and nothing is below the key.
func guardsOf(key string) ([]clientv3.Cmp, []clientv3.Op) {
	values, leases, failure := []clientv3.Cmp{}, []clientv3.Cmp{}, []clientv3.Op{}
	for at, char := range key {
		if char == '/' && at > 0 {
			values = append(values, clientv3.Compare(clientv3.CreateRevision(key[:at]), "=", 0))
			leases = append(leases, clientv3.Compare(clientv3.LeaseValue(key[:at+1]), "=", 0))
			failure = append(failure, clientv3.OpGet(key[:at], clientv3.WithKeysOnly()))
		}
	}
	slices.Reverse(leases)
	first, end := key+"/", key+"0"
	below := clientv3.Compare(clientv3.CreateRevision(first), "=", 0).WithRange(end)
	failure = append(failure,
		clientv3.OpGet(first, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly()),
		clientv3.OpGet(key))
	return slices.Concat(values, leases, []clientv3.Cmp{below}), failure
}

// lock locks and unlocks a mutex for each goroutine.  A cycle is one transaction and one delete.
func (w *worker) lock(ctx context.Context, r request) (answer, error) {
	if w.session == nil {
		opened, err := concurrency.NewSession(w.client, concurrency.WithTTL(lockTTL))
		if err != nil {
			return nil, err
		}
		w.session = opened
	}
	calls := []func() error{}
	for number := range r.InFlight {
		mutex := concurrency.NewMutex(w.session, fmt.Sprintf("/bench/lock/%d", number))
		calls = append(calls, func() error {
			if err := mutex.Lock(ctx); err != nil {
				return err
			}
			return mutex.Unlock(ctx)
		})
	}
	return repeat(r.Seconds, calls)
}

func (w *worker) connect(ctx context.Context, r request) (answer, error) {
	keys, err := w.prepare(ctx, r.Size, 1)
	if err != nil {
		return nil, err
	}
	return repeat(r.Seconds, []func() error{func() error {
		client, err := newClient(w.urls)
		if err != nil {
			return err
		}
		defer client.Close()
		return checkedGet(ctx, client, keys[0], r.Size)
	}})
}

// -- watches and memory

func (w *worker) watch(ctx context.Context, r request) (answer, error) {
	begin, seen := time.Now(), 0
	for range r.Times {
		count, err := countEvents(ctx, w.client, r)
		seen += count
		if err != nil {
			return nil, err
		}
	}
	return answer{"operations": seen, "seconds": time.Since(begin).Seconds()}, nil
}

func countEvents(ctx context.Context, client *clientv3.Client, r request) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := 0
	for response := range client.Watch(ctx, r.Prefix, clientv3.WithPrefix(), clientv3.WithRev(r.Index)) {
		if err := response.Err(); err != nil {
			return seen, err
		}
		if seen += len(response.Events); seen >= r.Count {
			return r.Count, nil
		}
	}
	return seen, fmt.Errorf("the watch ended after %d of %d events", seen, r.Count)
}

// watches is the number of watches whose memory is measured; they share a connection.
const watches = 5_000

func (w *worker) memory(ctx context.Context, r request) (answer, error) {
	keys, err := w.prepare(ctx, 64, 1)
	if err != nil {
		return nil, err
	}
	if err := checkedGet(ctx, w.client, keys[0], 64); err != nil {
		return nil, err
	}
	base, err := residentBytes()
	if err != nil {
		return nil, err
	}
	sizes := []float64{}
	// The first ones fill memory that the process has already allocated.
	for _, numbers := range [][2]int{{watches, watches + watches/2}, {0, watches}} {
		for number := numbers[0]; number < numbers[1]; number++ {
			w.held = append(w.held, w.client.Watch(ctx, fmt.Sprintf("/bench/held/%d", number)))
		}
		time.Sleep(settleTime)
		size, err := residentBytes()
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, size)
	}
	return answer{"base": base, "each": (sizes[1] - sizes[0]) / watches}, nil
}

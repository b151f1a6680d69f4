package main

import recipe "go.etcd.io/etcd/client/v3/experimental/recipes"

// These recipes take no context: a command in progress ends when its session is closed or dropped, or, for those
// without a session, with the program.
var recipeVerbs = map[string]handler{
	"read_lock":        verb(readLock),
	"read_unlock":      verb(readUnlock),
	"write_lock":       verb(writeLock),
	"write_unlock":     verb(writeUnlock),
	"enqueue":          verb(enqueue),
	"dequeue":          verb(dequeue),
	"enqueue_priority": verb(enqueuePriority),
	"dequeue_priority": verb(dequeuePriority),
	"hold_barrier":     verb(barrier((*recipe.Barrier).Hold)),
	"release_barrier":  verb(barrier((*recipe.Barrier).Release)),
	"wait_barrier":     verb(barrier((*recipe.Barrier).Wait)),
	"enter_barrier":    verb(enterBarrier),
	"leave_barrier":    verb(leaveBarrier),
}

// -- RWMutex

func (c *call) rwMutexOf(a nameArguments) (*recipe.RWMutex, error) {
	one, err := c.session(a.Session)
	if err != nil {
		return nil, err
	}
	return of(one, one.rwMutexes, a.Name, func() *recipe.RWMutex {
		return recipe.NewRWMutex(one.Session, a.Name)
	}), nil
}

func onRWMutex(c *call, a nameArguments, run func(*recipe.RWMutex) error) (any, error) {
	mutex, err := c.rwMutexOf(a)
	if err != nil {
		return nil, err
	}
	return nil, run(mutex)
}

func readLock(c *call, a nameArguments) (any, error) {
	return onRWMutex(c, a, (*recipe.RWMutex).RLock)
}

func readUnlock(c *call, a nameArguments) (any, error) {
	return onRWMutex(c, a, (*recipe.RWMutex).RUnlock)
}

func writeLock(c *call, a nameArguments) (any, error) {
	return onRWMutex(c, a, (*recipe.RWMutex).Lock)
}

func writeUnlock(c *call, a nameArguments) (any, error) {
	return onRWMutex(c, a, (*recipe.RWMutex).Unlock)
}

// -- Queue and PriorityQueue

type enqueueArguments struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Priority uint16 `json:"priority"` // the lowest is taken first
}

type queueArguments struct {
	Name string `json:"name"`
}

type valueResult struct {
	Value string `json:"value"`
}

func enqueue(c *call, a enqueueArguments) (any, error) {
	return nil, recipe.NewQueue(c.server.client, a.Name).Enqueue(a.Value)
}

func dequeue(c *call, a queueArguments) (any, error) {
	value, err := recipe.NewQueue(c.server.client, a.Name).Dequeue()
	return valueResult{value}, err
}

func enqueuePriority(c *call, a enqueueArguments) (any, error) {
	return nil, recipe.NewPriorityQueue(c.server.client, a.Name).Enqueue(a.Value, a.Priority)
}

func dequeuePriority(c *call, a queueArguments) (any, error) {
	value, err := recipe.NewPriorityQueue(c.server.client, a.Name).Dequeue()
	return valueResult{value}, err
}

// -- Barrier and DoubleBarrier

func barrier(run func(*recipe.Barrier) error) func(*call, queueArguments) (any, error) {
	return func(c *call, a queueArguments) (any, error) {
		return nil, run(recipe.NewBarrier(c.server.client, a.Name))
	}
}

type doubleBarrierArguments struct {
	Session string `json:"session"`
	Name    string `json:"name"`
	Count   int    `json:"count"`
}

func (c *call) doubleBarrierOf(a doubleBarrierArguments) (*recipe.DoubleBarrier, error) {
	one, err := c.session(a.Session)
	if err != nil {
		return nil, err
	}
	return of(one, one.barriers, a.Name, func() *recipe.DoubleBarrier {
		return recipe.NewDoubleBarrier(one.Session, a.Name, a.Count)
	}), nil
}

func enterBarrier(c *call, a doubleBarrierArguments) (any, error) {
	one, err := c.doubleBarrierOf(a)
	if err != nil {
		return nil, err
	}
	return nil, one.Enter()
}

func leaveBarrier(c *call, a doubleBarrierArguments) (any, error) {
	one, err := c.doubleBarrierOf(a)
	if err != nil {
		return nil, err
	}
	return nil, one.Leave()
}

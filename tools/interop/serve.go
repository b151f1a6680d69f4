package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A command is one line of standard input:
//
//	{"id": 7, "verb": "lock", "timeout": 5.0, "arguments": {"session": "a", "name": "/locks/x"}}
//
// Commands run concurrently.  Each one causes events, which repeat its id:
//
//	{"id": 7, "event": "done", "result": {...}}                      the last event of a command that succeeded
//	{"id": 7, "event": "error", "result": {"code": ..., "message": ...}}   the last event of one that failed
//
// Commands that last, such as watch, write other events before that one, until {"verb": "cancel"} ends them.  A key or
// a value of the verbs in kv.go is encoded in base64, everything else is text.
type command struct {
	ID        int64           `json:"id"`
	Verb      string          `json:"verb"`
	Timeout   float64         `json:"timeout"` // seconds; 0 for no limit
	Arguments json.RawMessage `json:"arguments"`
}

type event struct {
	ID     int64  `json:"id"`
	Event  string `json:"event"`
	Result any    `json:"result"`
}

type failure struct {
	Code    string `json:"code"` // that of gRPC, such as Canceled or NotFound; Unknown if the error has none
	Message string `json:"message"`
}

// A call is a command in progress.
type call struct {
	ctx    context.Context
	id     int64
	server *server
}

// emit writes an event of the command.
func (c *call) emit(name string, result any) {
	c.server.write(event{c.id, name, result})
}

// A handler executes one verb and returns the result of the event "done".
type handler func(c *call, arguments json.RawMessage) (any, error)

// verb makes a handler of a function with typed arguments.  An unknown argument is an error.
func verb[A any](run func(c *call, arguments A) (any, error)) handler {
	return func(c *call, raw json.RawMessage) (any, error) {
		var arguments A
		if len(raw) > 0 {
			decoder := json.NewDecoder(bytes.NewReader(raw))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&arguments); err != nil {
				return nil, status.Errorf(codes.InvalidArgument, "invalid arguments: %v", err)
			}
		}
		return run(c, arguments)
	}
}

type nothing struct{}

// A server executes commands on one etcd.
type server struct {
	urls     []string
	client   *clientv3.Client
	handlers map[string]handler

	writing sync.Mutex
	output  *json.Encoder

	mutex    sync.Mutex // of the maps
	running  map[int64]context.CancelFunc
	sessions map[string]*session
	dialed   map[string]*dialed
	gates    map[int64]chan struct{}
}

// closeTimeout limits the time for the commands in progress once standard input is closed.
const closeTimeout = 5 * time.Second

// serve executes commands until the input ends; then it cancels those in progress and closes all sessions, which
// revokes their leases.
func serve(urls []string, input io.Reader, output io.Writer) error {
	client, err := newClient(urls)
	if err != nil {
		return err
	}
	s := &server{
		urls:     urls,
		client:   client,
		output:   json.NewEncoder(output),
		running:  map[int64]context.CancelFunc{},
		sessions: map[string]*session{},
		dialed:   map[string]*dialed{},
		gates:    map[int64]chan struct{}{},
	}
	s.handlers = map[string]handler{"cancel": verb(s.cancel)}
	for _, verbs := range []map[string]handler{kvVerbs, concurrencyVerbs, recipeVerbs, namingVerbs} {
		for name, one := range verbs {
			s.handlers[name] = one
		}
	}
	s.write(event{0, "ready", versions()})
	ctx, cancelAll := context.WithCancel(context.Background())
	var group sync.WaitGroup
	lines := bufio.NewScanner(input)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var next command
		if err := json.Unmarshal(lines.Bytes(), &next); err != nil {
			s.write(event{0, "error", failure{codes.InvalidArgument.String(), fmt.Sprintf("invalid command: %v", err)}})
			continue
		}
		group.Add(1)
		go func() {
			defer group.Done()
			s.execute(ctx, next)
		}()
	}
	cancelAll()
	s.closeSessions()
	s.hangUp()
	client.Close() // ends commands that take no context, such as those of experimental/recipes
	ended := make(chan struct{})
	go func() {
		group.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(closeTimeout):
	}
	return lines.Err()
}

func (s *server) execute(ctx context.Context, next command) {
	var cancel context.CancelFunc
	if next.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(next.Timeout*float64(time.Second)))
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	defer cancel()
	s.mutex.Lock()
	s.running[next.ID] = cancel
	s.mutex.Unlock()
	defer func() {
		s.mutex.Lock()
		delete(s.running, next.ID)
		s.mutex.Unlock()
	}()
	c := &call{ctx, next.ID, s}
	run, known := s.handlers[next.Verb]
	if !known {
		c.emit("error", failure{codes.Unimplemented.String(), fmt.Sprintf("unknown verb %q", next.Verb)})
		return
	}
	result, err := run(c, next.Arguments)
	if err != nil {
		c.emit("error", failureOf(err))
		return
	}
	if result == nil {
		result = nothing{}
	}
	c.emit("done", result)
}

func (s *server) write(one event) {
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.output.Encode(one) // fails once the other side has gone, and then standard input ends as well
}

type cancelArguments struct {
	ID int64 `json:"id"` // of another command
}

// cancel ends the command with the given id, which then writes its last event.
func (s *server) cancel(_ *call, arguments cancelArguments) (any, error) {
	s.mutex.Lock()
	cancel, found := s.running[arguments.ID]
	s.mutex.Unlock()
	if !found {
		return nil, status.Errorf(codes.NotFound, "command %d is not running", arguments.ID)
	}
	cancel()
	return nil, nil
}

func failureOf(err error) failure {
	code := status.Code(err)
	var coded interface{ Code() codes.Code } // the errors of rpctypes
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.As(err, &coded):
		code = coded.Code()
	}
	return failure{code.String(), strings.TrimSpace(err.Error())}
}

// end is the result of a command that lasts until it is cancelled: an error only if it ended for another reason.
func (c *call) end(reason string) (any, error) {
	if errors.Is(c.ctx.Err(), context.Canceled) {
		return nil, nil
	}
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	return nil, status.Error(codes.Unavailable, reason)
}

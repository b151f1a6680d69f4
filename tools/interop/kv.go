package main

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var kvVerbs = map[string]handler{
	"get":          verb(get),
	"put":          verb(put),
	"delete":       verb(remove),
	"txn":          verb(txn),
	"compact":      verb(compact),
	"watch":        verb(watch),
	"grant":        verb(grant),
	"keep_alive":   verb(keepAlive),
	"time_to_live": verb(timeToLive),
	"revoke":       verb(revoke),
}

type keyValue struct {
	Key            []byte `json:"key"`
	Value          []byte `json:"value"`
	CreateRevision int64  `json:"create_revision"`
	ModRevision    int64  `json:"mod_revision"`
	Version        int64  `json:"version"`
	Lease          int64  `json:"lease"`
}

func keyValueOf(kv *mvccpb.KeyValue) keyValue {
	// Not nil, so that JSON has an empty text instead of null.
	key, value := append([]byte{}, kv.Key...), append([]byte{}, kv.Value...)
	return keyValue{key, value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
}

func keyValuesOf(kvs []*mvccpb.KeyValue) []keyValue {
	found := []keyValue{}
	for _, kv := range kvs {
		found = append(found, keyValueOf(kv))
	}
	return found
}

type readResult struct {
	Revision int64      `json:"revision"`
	Count    int64      `json:"count"`
	KVs      []keyValue `json:"kvs"`
}

type getArguments struct {
	Key          []byte `json:"key"`
	Prefix       bool   `json:"prefix"`
	Revision     int64  `json:"revision"`
	Serializable bool   `json:"serializable"`
}

func get(c *call, a getArguments) (any, error) {
	options := []clientv3.OpOption{clientv3.WithRev(a.Revision)}
	if a.Prefix {
		options = append(options, clientv3.WithPrefix())
	}
	if a.Serializable {
		options = append(options, clientv3.WithSerializable())
	}
	found, err := c.server.client.Get(c.ctx, string(a.Key), options...)
	if err != nil {
		return nil, err
	}
	return readResult{found.Header.Revision, found.Count, keyValuesOf(found.Kvs)}, nil
}

type putArguments struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
	Lease int64  `json:"lease"`
}

type writeResult struct {
	Revision int64 `json:"revision"`
	Deleted  int64 `json:"deleted"`
}

func put(c *call, a putArguments) (any, error) {
	options := []clientv3.OpOption{clientv3.WithLease(clientv3.LeaseID(a.Lease))}
	written, err := c.server.client.Put(c.ctx, string(a.Key), string(a.Value), options...)
	if err != nil {
		return nil, err
	}
	return writeResult{written.Header.Revision, 0}, nil
}

type deleteArguments struct {
	Key    []byte `json:"key"`
	Prefix bool   `json:"prefix"`
}

func remove(c *call, a deleteArguments) (any, error) {
	options := []clientv3.OpOption{}
	if a.Prefix {
		options = append(options, clientv3.WithPrefix())
	}
	deleted, err := c.server.client.Delete(c.ctx, string(a.Key), options...)
	if err != nil {
		return nil, err
	}
	return writeResult{deleted.Header.Revision, deleted.Deleted}, nil
}

type compareArguments struct {
	Key    []byte `json:"key"`
	Target string `json:"target"` // create, mod, version, lease or value
	Result string `json:"result"` // =, !=, < or >
	Number int64  `json:"number"`
	Value  []byte `json:"value"`
}

type operationArguments struct {
	Operation string `json:"operation"` // put, get or delete
	Key       []byte `json:"key"`
	Value     []byte `json:"value"`
	Lease     int64  `json:"lease"`
	Prefix    bool   `json:"prefix"`
}

type txnArguments struct {
	Compares []compareArguments   `json:"compares"`
	Success  []operationArguments `json:"success"`
	Failure  []operationArguments `json:"failure"`
}

type txnResult struct {
	Succeeded bool         `json:"succeeded"`
	Revision  int64        `json:"revision"`
	Reads     [][]keyValue `json:"reads"` // of each get
}

func txn(c *call, a txnArguments) (any, error) {
	compares := []clientv3.Cmp{}
	for _, one := range a.Compares {
		compare, err := one.compare()
		if err != nil {
			return nil, err
		}
		compares = append(compares, compare)
	}
	success, err := operationsOf(a.Success)
	if err != nil {
		return nil, err
	}
	failure, err := operationsOf(a.Failure)
	if err != nil {
		return nil, err
	}
	done, err := c.server.client.Txn(c.ctx).If(compares...).Then(success...).Else(failure...).Commit()
	if err != nil {
		return nil, err
	}
	reads := [][]keyValue{}
	for _, response := range done.Responses {
		if found := response.GetResponseRange(); found != nil {
			reads = append(reads, keyValuesOf(found.Kvs))
		}
	}
	return txnResult{done.Succeeded, done.Header.Revision, reads}, nil
}

func (one compareArguments) compare() (clientv3.Cmp, error) {
	key := string(one.Key)
	switch one.Result {
	case "=", "!=", "<", ">":
	default:
		return clientv3.Cmp{}, status.Errorf(codes.InvalidArgument, "unknown result of a compare: %q", one.Result)
	}
	switch one.Target {
	case "create":
		return clientv3.Compare(clientv3.CreateRevision(key), one.Result, one.Number), nil
	case "mod":
		return clientv3.Compare(clientv3.ModRevision(key), one.Result, one.Number), nil
	case "version":
		return clientv3.Compare(clientv3.Version(key), one.Result, one.Number), nil
	case "lease":
		return clientv3.Compare(clientv3.LeaseValue(key), one.Result, one.Number), nil
	case "value":
		return clientv3.Compare(clientv3.Value(key), one.Result, string(one.Value)), nil
	}
	return clientv3.Cmp{}, status.Errorf(codes.InvalidArgument, "unknown target of a compare: %q", one.Target)
}

func operationsOf(arguments []operationArguments) ([]clientv3.Op, error) {
	found := []clientv3.Op{}
	for _, one := range arguments {
		options := []clientv3.OpOption{}
		if one.Prefix {
			options = append(options, clientv3.WithPrefix())
		}
		switch one.Operation {
		case "put":
			options = append(options, clientv3.WithLease(clientv3.LeaseID(one.Lease)))
			found = append(found, clientv3.OpPut(string(one.Key), string(one.Value), options...))
		case "get":
			found = append(found, clientv3.OpGet(string(one.Key), options...))
		case "delete":
			found = append(found, clientv3.OpDelete(string(one.Key), options...))
		default:
			return nil, status.Errorf(codes.InvalidArgument, "unknown operation %q", one.Operation)
		}
	}
	return found, nil
}

type compactArguments struct {
	Revision int64 `json:"revision"`
}

func compact(c *call, a compactArguments) (any, error) {
	done, err := c.server.client.Compact(c.ctx, a.Revision, clientv3.WithCompactPhysical())
	if err != nil {
		return nil, err
	}
	return writeResult{done.Header.Revision, 0}, nil
}

// -- watches

type watchArguments struct {
	Key      []byte `json:"key"`
	Prefix   bool   `json:"prefix"`
	Revision int64  `json:"revision"`
	Previous bool   `json:"previous"`
	Progress bool   `json:"progress"`
}

type watchStarted struct {
	Revision int64 `json:"revision"`
}

type change struct {
	Type     string    `json:"type"` // PUT or DELETE
	KV       keyValue  `json:"kv"`
	Previous *keyValue `json:"previous"`
}

type changes struct {
	Revision int64    `json:"revision"`
	Changes  []change `json:"changes"`
}

// watch writes "watching" once the server has created the watch, "changed" for each response with events, and
// "progress" for each one without.
func watch(c *call, a watchArguments) (any, error) {
	options := []clientv3.OpOption{clientv3.WithCreatedNotify(), clientv3.WithRev(a.Revision)}
	if a.Prefix {
		options = append(options, clientv3.WithPrefix())
	}
	if a.Previous {
		options = append(options, clientv3.WithPrevKV())
	}
	if a.Progress {
		options = append(options, clientv3.WithProgressNotify())
	}
	for response := range c.server.client.Watch(c.ctx, string(a.Key), options...) {
		if err := response.Err(); err != nil {
			if response.CompactRevision != 0 {
				err = status.Errorf(codes.OutOfRange, "%v: %d", err, response.CompactRevision)
			}
			return nil, err
		}
		switch {
		case response.Created:
			c.emit("watching", watchStarted{response.Header.Revision})
		case response.IsProgressNotify():
			c.emit("progress", watchStarted{response.Header.Revision})
		default:
			c.emit("changed", changes{response.Header.Revision, changesOf(response.Events)})
		}
	}
	return c.end("the watch ended")
}

func changesOf(events []*clientv3.Event) []change {
	found := []change{}
	for _, one := range events {
		next := change{Type: one.Type.String(), KV: keyValueOf(one.Kv)}
		if one.PrevKv != nil {
			previous := keyValueOf(one.PrevKv)
			next.Previous = &previous
		}
		found = append(found, next)
	}
	return found
}

// -- leases

type leaseArguments struct {
	Lease int64 `json:"lease"`
}

type grantArguments struct {
	TTL int64 `json:"ttl"`
}

type leaseResult struct {
	Lease   int64    `json:"lease"`
	TTL     int64    `json:"ttl"`     // seconds left; -1 if the lease does not exist
	Granted int64    `json:"granted"` // seconds
	Keys    [][]byte `json:"keys"`
}

func grant(c *call, a grantArguments) (any, error) {
	granted, err := c.server.client.Grant(c.ctx, a.TTL)
	if err != nil {
		return nil, err
	}
	return leaseResult{int64(granted.ID), granted.TTL, granted.TTL, [][]byte{}}, nil
}

// keepAlive writes "renewed" for each renewal, until it is cancelled or the lease ends.
func keepAlive(c *call, a leaseArguments) (any, error) {
	renewals, err := c.server.client.KeepAlive(c.ctx, clientv3.LeaseID(a.Lease))
	if err != nil {
		return nil, err
	}
	for renewal := range renewals {
		c.emit("renewed", leaseResult{int64(renewal.ID), renewal.TTL, renewal.TTL, [][]byte{}})
	}
	return c.end(fmt.Sprintf("lease %d ended", a.Lease))
}

func timeToLive(c *call, a leaseArguments) (any, error) {
	found, err := c.server.client.TimeToLive(c.ctx, clientv3.LeaseID(a.Lease), clientv3.WithAttachedKeys())
	if err != nil {
		return nil, err
	}
	keys := found.Keys
	if keys == nil {
		keys = [][]byte{}
	}
	return leaseResult{a.Lease, found.TTL, found.GrantedTTL, keys}, nil
}

func revoke(c *call, a leaseArguments) (any, error) {
	_, err := c.server.client.Revoke(c.ctx, clientv3.LeaseID(a.Lease))
	return nil, err
}

// revisionIn returns the create revision that a compare requires.
func revisionIn(compare clientv3.Cmp) int64 {
	if target, ok := compare.GetCompare().TargetUnion.(*pb.Compare_CreateRevision); ok {
		return target.CreateRevision
	}
	return 0
}

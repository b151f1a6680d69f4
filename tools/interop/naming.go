package main

import (
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	etcdresolver "go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

var namingVerbs = map[string]handler{
	"add_endpoint":    verb(addEndpoint),
	"delete_endpoint": verb(deleteEndpoint),
	"list_endpoints":  verb(listEndpoints),
	"watch_endpoints": verb(watchEndpoints),
	"dial":            verb(dial),
	"status":          verb(statusOf),
}

// -- naming/endpoints

type endpointArguments struct {
	Service  string `json:"service"` // the prefix of the keys, without the last slash
	Key      string `json:"key"`
	Addr     string `json:"addr"`
	Metadata any    `json:"metadata"`
	Lease    int64  `json:"lease"`
}

type endpoint struct {
	Addr     string `json:"addr"`
	Metadata any    `json:"metadata"`
}

type endpointsResult struct {
	Endpoints map[string]endpoint `json:"endpoints"` // by key
}

type endpointUpdate struct {
	Operation string   `json:"operation"` // add or delete
	Key       string   `json:"key"`
	Endpoint  endpoint `json:"endpoint"`
}

type endpointUpdates struct {
	Updates []endpointUpdate `json:"updates"`
}

func addEndpoint(c *call, a endpointArguments) (any, error) {
	manager, err := endpoints.NewManager(c.server.client, a.Service)
	if err != nil {
		return nil, err
	}
	lease := clientv3.WithLease(clientv3.LeaseID(a.Lease))
	return nil, manager.AddEndpoint(c.ctx, a.Key, endpoints.Endpoint{Addr: a.Addr, Metadata: a.Metadata}, lease)
}

type endpointKey struct {
	Service string `json:"service"`
	Key     string `json:"key"`
}

func deleteEndpoint(c *call, a endpointKey) (any, error) {
	manager, err := endpoints.NewManager(c.server.client, a.Service)
	if err != nil {
		return nil, err
	}
	return nil, manager.DeleteEndpoint(c.ctx, a.Key)
}

type serviceArguments struct {
	Service string `json:"service"`
}

func listEndpoints(c *call, a serviceArguments) (any, error) {
	manager, err := endpoints.NewManager(c.server.client, a.Service)
	if err != nil {
		return nil, err
	}
	listed, err := manager.List(c.ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]endpoint{}
	for key, one := range listed {
		found[key] = endpoint{one.Addr, one.Metadata}
	}
	return endpointsResult{found}, nil
}

// watchEndpoints writes "updated" for the endpoints that exist and for each change, until it is cancelled.
func watchEndpoints(c *call, a serviceArguments) (any, error) {
	manager, err := endpoints.NewManager(c.server.client, a.Service)
	if err != nil {
		return nil, err
	}
	channel, err := manager.NewWatchChannel(c.ctx)
	if err != nil {
		return nil, err
	}
	for updates := range channel {
		found := []endpointUpdate{}
		for _, one := range updates {
			operation := "add"
			if one.Op == endpoints.Delete {
				operation = "delete"
			}
			found = append(found, endpointUpdate{operation, one.Key, endpoint{one.Endpoint.Addr, one.Endpoint.Metadata}})
		}
		c.emit("updated", endpointUpdates{found})
	}
	return c.end("the watch ended")
}

// -- the gRPC resolver

// dialed is a gRPC connection that finds its servers in etcd.
type dialed struct {
	*grpc.ClientConn
}

type dialArguments struct {
	Target string `json:"target"` // such as etcd:////services/match
	Policy string `json:"policy"` // of the load balancing, such as round_robin; empty for gRPC's default
}

type resolved struct {
	Addresses []string `json:"addresses"`
}

// dial writes "dialed" once other commands can use the connection, by its target, and "resolved" for each list of
// addresses that the resolver finds.  It keeps the connection until it is cancelled.
func dial(c *call, a dialArguments) (any, error) {
	builder, err := etcdresolver.NewBuilder(c.server.client)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithResolvers(reportingBuilder{builder, c}),
	}
	if a.Policy != "" {
		options = append(options, grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+a.Policy+`": {}}]}`))
	}
	connection, err := grpc.NewClient(a.Target, options...)
	if err != nil {
		return nil, err
	}
	c.server.mutex.Lock()
	c.server.dialed[a.Target] = &dialed{connection}
	c.server.mutex.Unlock()
	c.emit("dialed", targetArguments{a.Target})
	connection.Connect()
	<-c.ctx.Done()
	c.server.mutex.Lock()
	delete(c.server.dialed, a.Target)
	c.server.mutex.Unlock()
	connection.Close()
	return c.end("")
}

type targetArguments struct {
	Target string `json:"target"`
}

type statusResult struct {
	Address string `json:"address"` // of the server that answered
	Version string `json:"version"` // of the etcd there
}

// statusOf calls a server of the service, each of which must be an etcd.
func statusOf(c *call, a targetArguments) (any, error) {
	c.server.mutex.Lock()
	one, found := c.server.dialed[a.Target]
	c.server.mutex.Unlock()
	if !found {
		return nil, status.Errorf(codes.NotFound, "%q was not dialed", a.Target)
	}
	var server peer.Peer
	wait := grpc.WaitForReady(true)
	answer, err := pb.NewMaintenanceClient(one).Status(c.ctx, &pb.StatusRequest{}, grpc.Peer(&server), wait)
	if err != nil {
		return nil, err
	}
	return statusResult{server.Addr.String(), answer.Version}, nil
}

// hangUp closes the connections of all services.
func (s *server) hangUp() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, one := range s.dialed {
		one.Close()
	}
}

// A reportingBuilder passes on what a resolver finds, and writes an event with the addresses.
type reportingBuilder struct {
	resolver.Builder
	call *call
}

func (b reportingBuilder) Build(
	target resolver.Target, connection resolver.ClientConn, options resolver.BuildOptions,
) (resolver.Resolver, error) {
	return b.Builder.Build(target, &reportingConnection{connection, b.call, sync.Mutex{}}, options)
}

type reportingConnection struct {
	resolver.ClientConn
	call  *call
	mutex sync.Mutex
}

func (r *reportingConnection) UpdateState(state resolver.State) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	addresses := []string{}
	for _, one := range state.Endpoints {
		for _, address := range one.Addresses {
			addresses = append(addresses, address.Addr)
		}
	}
	r.call.emit("resolved", resolved{addresses})
	return r.ClientConn.UpdateState(state)
}

// Command interop runs etcd's Go client: for getc's tests of interoperability, and as a peer in getc's benchmark.
//
//	interop serve URL[,URL...]    execute the commands on standard input, see serve.go
//	interop bench URL             execute the work of the benchmark, see bench.go
//
// Both read one JSON object per line from standard input, write one per line to standard output, and end when standard
// input is closed.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const usage = "usage: interop serve URL[,URL...] | interop bench URL"

// dialTimeout limits the wait for the first connection of a client.
const dialTimeout = 10 * time.Second

func main() {
	if len(os.Args) != 3 || (os.Args[1] != "serve" && os.Args[1] != "bench") {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	run := serve
	if os.Args[1] == "bench" {
		run = bench
	}
	if err := run(strings.Split(os.Args[2], ","), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// newClient returns a client of its own, with a connection of its own.  It does not wait for the connection.
func newClient(urls []string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: urls, DialTimeout: dialTimeout, Logger: zap.NewNop()})
}

// versions returns the versions of Go and of the modules that matter for speed and behaviour.
func versions() map[string]any {
	modules := map[string]string{"Go": strings.TrimPrefix(runtime.Version(), "go")}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			switch module.Path {
			case "go.etcd.io/etcd/client/v3", "google.golang.org/grpc":
				modules[module.Path] = strings.TrimPrefix(module.Version, "v")
			}
		}
	}
	return map[string]any{"packages": modules}
}

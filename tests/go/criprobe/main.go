// Criprobe calls a CRI server as a kubelet would, over one connection, in the ways that have broken HTTP/2 servers.
// In: a case and the path of a socket. Out: exit status 0 and one line, or 1 and the cause. It checks, it does not measure.
package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The limit that the kubelet sets on what it receives.
const messageBytesMax = 16 * 1024 * 1024

func main() {
	cases := map[string]func(string) error{
		"authority": authority,
		"lists":     lists,
		"stalled":   stalled,
		"cancel":    cancel,
		"deadline":  deadline,
		"idle":      idle,
	}
	if len(os.Args) != 3 || cases[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: criprobe authority|lists|stalled|cancel|deadline|idle SOCKET")
		os.Exit(2)
	}
	if err := cases[os.Args[1]](os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "criprobe %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	fmt.Println("ok")
}

func dial(socket string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)),
	}, options...)
	return grpc.NewClient("unix://"+socket, options...)
}

func version(connection *grpc.ClientConn) error {
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	answer, err := cri.NewRuntimeServiceClient(connection).Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return err
	}
	if answer.RuntimeApiVersion != "v1" {
		return fmt.Errorf("runtime_api_version is %q", answer.RuntimeApiVersion)
	}
	return nil
}

// Clients before Kubernetes 1.31 send the path of the socket as the authority, or its percent-encoding. Further headers of changing
// sizes make the header tables of both sides grow and evict; if they parted, later requests would fail.
func authority(socket string) error {
	for _, name := range []string{"localhost", socket, url.PathEscape(socket)} {
		connection, err := dial(socket, grpc.WithAuthority(name))
		if err != nil {
			return err
		}
		client := cri.NewRuntimeServiceClient(connection)
		for i := 0; i < 200; i++ {
			ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
			value := fmt.Sprintf("%0*d", 1+i*7%300, i)
			_, err := client.Version(metadata.AppendToOutgoingContext(ctx, fmt.Sprintf("x-probe-%d", i%40), value), &cri.VersionRequest{})
			done()
			if err != nil {
				return fmt.Errorf("authority %q, call %d: %w", name, i, err)
			}
		}
		connection.Close()
	}
	return nil
}

// Twelve replies of 12 MB at once on one connection.
func lists(socket string) error {
	connection, err := dial(socket)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := cri.NewRuntimeServiceClient(connection)
	failures := make(chan error, 12)
	for i := 0; i < 12; i++ {
		go func() {
			ctx, done := context.WithTimeout(context.Background(), 60*time.Second)
			defer done()
			answer, err := client.ListContainers(ctx, &cri.ListContainersRequest{})
			if err == nil {
				size := 0
				for _, container := range answer.Containers {
					size += len(container.Annotations["filler"])
				}
				if size != 12_000_000 {
					err = fmt.Errorf("%d bytes of annotations", size)
				}
			}
			failures <- err
		}()
	}
	for i := 0; i < 12; i++ {
		if err := <-failures; err != nil {
			return err
		}
	}
	return version(connection)
}

// A connection whose reads wait while the gate is closed.
type gatedConnection struct {
	net.Conn
	gate *sync.RWMutex
}

func (c gatedConnection) Read(bytes []byte) (int, error) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	return c.Conn.Read(bytes)
}

// A client that stops reading in the middle of a large reply delays nobody else, and gets the rest when it reads on.
func stalled(socket string) error {
	gate := &sync.RWMutex{}
	slow, err := dial(socket, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		connection, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		return gatedConnection{connection, gate}, err
	}))
	if err != nil {
		return err
	}
	defer slow.Close()
	if err := version(slow); err != nil {
		return err
	}
	result := make(chan error, 1)
	locked := make(chan struct{})
	go func() {
		<-locked
		ctx, done := context.WithTimeout(context.Background(), 60*time.Second)
		defer done()
		_, err := cri.NewRuntimeServiceClient(slow).ListContainers(ctx, &cri.ListContainersRequest{})
		result <- err
	}()
	// The reader of the connection holds the gate while it waits for bytes; one more answer lets it go.
	go func() { time.Sleep(50 * time.Millisecond); _ = version(slow) }()
	gate.Lock()
	close(locked)
	other, err := dial(socket)
	if err != nil {
		return err
	}
	defer other.Close()
	until := time.Now().Add(3 * time.Second)
	calls := 0
	for time.Now().Before(until) {
		started := time.Now()
		if err := version(other); err != nil {
			return fmt.Errorf("beside a stalled reader: %w", err)
		}
		if took := time.Since(started); took > 2*time.Second {
			return fmt.Errorf("beside a stalled reader a call took %v", took)
		}
		calls++
	}
	select {
	case err := <-result:
		return fmt.Errorf("the stalled call ended early: %v", err)
	default:
	}
	gate.Unlock()
	if err := <-result; err != nil {
		return fmt.Errorf("after the stall: %w", err)
	}
	return version(slow)
}

// A thousand calls that are cancelled while they run. The connection serves on.
func cancel(socket string) error {
	connection, err := dial(socket)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := cri.NewRuntimeServiceClient(connection)
	var wrong atomic.Value
	var group sync.WaitGroup
	slots := make(chan struct{}, 50)
	for i := 0; i < 1000; i++ {
		group.Add(1)
		slots <- struct{}{}
		go func() {
			defer group.Done()
			defer func() { <-slots }()
			ctx, done := context.WithCancel(context.Background())
			timer := time.AfterFunc(time.Duration(1+i%20)*time.Millisecond, done)
			defer timer.Stop()
			_, err := client.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: "endless", Cmd: []string{"sleep"}})
			if status.Code(err) != codes.Canceled {
				wrong.Store(fmt.Sprintf("call %d: %v", i, err))
			}
		}()
	}
	group.Wait()
	if text := wrong.Load(); text != nil {
		return fmt.Errorf("%v", text)
	}
	return version(connection)
}

// The caller's own deadline ends the call on both sides.
func deadline(socket string) error {
	connection, err := dial(socket)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, done := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer done()
	_, err = cri.NewRuntimeServiceClient(connection).ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: "endless", Cmd: []string{"sleep"}})
	if status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("got %v", err)
	}
	return version(connection)
}

// An idle connection with keepalive pings (ten seconds is the shortest that the library allows) stays the same connection.
func idle(socket string) error {
	var dials atomic.Int32
	connection, err := dial(socket,
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := version(connection); err != nil {
		return err
	}
	time.Sleep(24 * time.Second)
	if state := connection.GetState(); state != connectivity.Ready {
		return fmt.Errorf("the connection is %v", state)
	}
	if err := version(connection); err != nil {
		return err
	}
	if count := dials.Load(); count != 1 {
		return fmt.Errorf("%d connections were made", count)
	}
	return nil
}

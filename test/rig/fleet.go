//go:build linux && netns

package rig

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// MaxNodes bounds a fleet: node i's addresses end in i, the attacker's in 254.
const MaxNodes = 64

// Options describes a fleet.
type Options struct {
	Nodes int
	// Binds mounts files and folders of the machine in every node and the
	// attacker: path in the host -> path on the machine.
	Binds map[string]string
}

// Fleet is an attacker and some nodes on two bridges.
type Fleet struct {
	Attacker *Host
	Nodes    []*Node

	fabric *fabric
	dir    string

	mu     sync.Mutex
	hosts  []*Host
	closer []func() error // run by Close before the hosts end, last one first
	port   uint16         // last one given to a pair
}

// Node is a server of the fleet.
type Node struct {
	*Host
	Index         int        // from 1
	Mesh, Mesh6   netip.Addr // of mesh0
	Probe, Probe6 netip.Addr // of probe0

	port     *port // of mesh0, on the bridge
	probeMAC [6]byte
}

// New builds a fleet and takes it down when the test ends. If the test failed,
// it first logs the last lines of every daemon.
func New(t testing.TB, o Options) *Fleet {
	t.Helper()
	f, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			f.dump(t)
		}
		if err := f.Close(); err != nil {
			t.Errorf("take the fleet down: %v", err)
		}
	})
	return f
}

// Build is New without a test: the caller closes the fleet.
func Build(o Options) (*Fleet, error) {
	if o.Nodes < 1 || o.Nodes > MaxNodes {
		return nil, fmt.Errorf("a fleet of %d nodes", o.Nodes)
	}
	if scratch == "" {
		return nil, errors.New("the test binary has no TestMain that calls rig.Main")
	}
	dir, err := os.MkdirTemp(scratch, "fleet-")
	if err != nil {
		return nil, err
	}
	f := &Fleet{dir: dir, Nodes: make([]*Node, o.Nodes)}
	if err := f.build(o); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Fleet) build(o Options) error {
	var err error
	if f.fabric, err = newFabric(); err != nil {
		return err
	}
	if f.Attacker, err = f.newHost("attacker", attackerSysctls, o.Binds); err != nil {
		return err
	}
	if err := f.fabric.plugAttacker(f.Attacker); err != nil {
		return fmt.Errorf("network of the attacker: %w", err)
	}
	// Two at a time: a fleet of ten takes well under a second.
	var wg sync.WaitGroup
	failed := make(chan error, o.Nodes) // one for each node, so no sender waits
	slots := make(chan struct{}, 2)
	for i := 1; i <= o.Nodes; i++ {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			failed <- f.addNode(i, o)
		})
	}
	wg.Wait()
	close(failed)
	for e := range failed {
		err = errors.Join(err, e)
	}
	return err
}

func (f *Fleet) addNode(i int, o Options) error {
	name := fmt.Sprintf("n%d", i)
	h, err := f.newHost(name, nodeSysctls, o.Binds)
	if err != nil {
		return err
	}
	n := &Node{
		Host: h, Index: i,
		Mesh: meshAddr(i), Mesh6: meshAddr6(i), Probe: probeAddr(i), Probe6: probeAddr6(i),
	}
	if err := f.fabric.plugNode(n); err != nil {
		return fmt.Errorf("network of %s: %w", name, err)
	}
	f.Nodes[i-1] = n
	return nil
}

// newHost makes a host with a state folder of its own on the real disk.
func (f *Fleet) newHost(name string, sysctls, binds map[string]string) (*Host, error) {
	dir := filepath.Join(f.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	h, err := newHost(f, name, hostSetup{Name: name, Scratch: dir, Sysctls: sysctls, Binds: binds})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.hosts = append(f.hosts, h)
	f.mu.Unlock()
	return h, nil
}

// probePort returns the next source port for a pair, in rotation.
func (f *Fleet) probePort() uint16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.port++; f.port < firstPort || f.port > lastPort {
		f.port = firstPort
	}
	return f.port
}

// onClose has Close run c before the hosts end. It is for sockets of the test process that would keep a namespace
// alive.
func (f *Fleet) onClose(c func() error) {
	f.mu.Lock()
	f.closer = append(f.closer, c)
	f.mu.Unlock()
}

// Close ends every process of the fleet; its namespaces, mounts and interfaces
// go with them. It may be called once.
func (f *Fleet) Close() error {
	var errs []error
	f.mu.Lock()
	hosts, closer := f.hosts, f.closer
	f.hosts, f.closer = nil, nil
	f.mu.Unlock()
	for i := len(closer) - 1; i >= 0; i-- {
		errs = append(errs, closer[i]())
	}
	for _, h := range hosts {
		errs = append(errs, h.close())
	}
	if f.fabric != nil {
		errs = append(errs, f.fabric.close())
	}
	return errors.Join(append(errs, os.RemoveAll(f.dir))...)
}

// dump logs the last output of every daemon.
func (f *Fleet) dump(t testing.TB) {
	for _, h := range f.hosts {
		h.mu.Lock()
		daemons := h.daemons
		h.mu.Unlock()
		for _, p := range daemons {
			t.Logf("--- %s: %s\n%s", h.Name, p.name, p.Tail(40))
		}
	}
}

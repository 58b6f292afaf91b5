// Command hostile is a malicious member of a mesh. It speaks memberlist with the mesh's key, is certified if it was
// invited, and runs one of its attacks against some nodes for a while; the tests of package test judge the effect. It must
// never be installed.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// world is what an attack works with.
type world struct {
	secrets pki.Secrets
	key     ed25519.PrivateKey
	id      frame.ID
	self    netip.AddrPort
	targets []netip.AddrPort // the nodes under attack
	bans    []netip.Prefix   // what the attack tries to have dropped; in the end, no target may drop it
	ca      string           // the authority's key, if the attack has stolen that too
	name    string           // in its certificate
	life    time.Duration    // of its frames and bans
	size    int              // ops in a frame, for the attack that has a choice
	mute    bool             // it proves neither its address nor its packets

	ml     *memberlist.Memberlist
	proofs *proofs // nil: its packets carry none
	udp    *net.UDPConn
	hear   func([]byte) // see sessions
	heard  chan []byte  // messages of others; memberlist sends, attacks receive, nobody closes; dropped if full
	root   atomic.Pointer[ack]
	epoch  uint64
	seq    uint64
	report report
}

// report is what the program prints at its end.
type report struct {
	ID       string
	Messages int // sent, counted for each receiver
	Bytes    int
	Errors   int // messages that the system refused to send
	Seconds  float64
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(1)
	}
}

func run() error {
	attack := flag.String("attack", "", "which: "+strings.Join(slices.Sorted(maps.Keys(attacks)), " "))
	dir := flag.String("dir", "", "the state folder of the node that was captured; or:")
	token := flag.String("token", "", "a join token, with which it becomes a member")
	bind := flag.String("bind", "", "its address and port")
	targets := flag.String("targets", "", "the nodes that it attacks, with commas between them")
	bans := flag.String("ban", "", "the prefixes that it is after, with commas between them")
	ca := flag.String("ca", "", "the authority's key, if that was captured")
	last := flag.Duration("for", 2*time.Second, "how long")
	w := &world{heard: make(chan []byte, 4096), epoch: uint64(time.Now().Unix())} // as agents do; a later epoch is refused
	flag.StringVar(&w.name, "name", "hostile", "the name in its certificate")
	flag.DurationVar(&w.life, "life", 20*time.Second, "how long what it bans lasts: short, so that one attack does not leave the next what it did")
	flag.IntVar(&w.size, "size", ban.MaxOpsPerFrame, "how many ops a frame of the attack \"ports\" has")
	flag.BoolVar(&w.mute, "mute", false, "prove neither its address nor its packets, as somebody with a stolen certificate could")
	flag.Parse()
	runtime.GOMAXPROCS(1) // a real attacker does not use the processors of its victims
	w.ca = *ca
	do, ok := attacks[*attack]
	if !ok {
		return fmt.Errorf("no attack %q", *attack)
	}
	if err := w.parse(*bind, *targets, *bans); err != nil {
		return err
	}
	if *dir == "" && *token == "" {
		return w.outside(do, *last)
	}
	if err := w.become(*dir, *token); err != nil {
		return err
	}
	if err := w.join(*attack != "elsewhere"); err != nil {
		return err
	}
	begin := make(chan os.Signal, 1) // the runtime sends when the test signals this process
	signal.Notify(begin, syscall.SIGUSR1)
	fmt.Println("ready")
	<-begin
	ctx, cancel := lasting(*last)
	defer cancel()
	begun := time.Now()
	err := do(ctx, w)
	w.report.ID, w.report.Seconds = w.id.String(), time.Since(begun).Seconds()
	_ = w.ml.Leave(100 * time.Millisecond) // waits in vain for invented members
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(w.report), w.ml.Shutdown())
}

// lasting returns a context that ends after a time or by SIGTERM.
func lasting(last time.Duration) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, last)
	return ctx, func() { cancel(); stop() }
}

// outside attacks with neither a key of the mesh nor a token.
func (w *world) outside(do func(context.Context, *world) error, last time.Duration) error {
	var err error
	if w.secrets, err = pki.NewSecrets(); err != nil {
		return err
	}
	if w.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.self.Addr(), 0))); err != nil {
		return err
	}
	fmt.Println("ready")
	ctx, cancel := lasting(last)
	defer cancel()
	return errors.Join(do(ctx, w), json.NewEncoder(os.Stdout).Encode(w.report))
}

func (w *world) parse(bind, targets, bans string) error {
	var err error
	if w.self, err = netip.ParseAddrPort(bind); err != nil {
		return err
	}
	for _, s := range strings.Split(targets, ",") {
		addr, err := netip.ParseAddrPort(s)
		if err != nil {
			return err
		}
		w.targets = append(w.targets, addr)
	}
	for _, s := range strings.FieldsFunc(bans, func(r rune) bool { return r == ',' }) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return err
		}
		w.bans = append(w.bans, p)
	}
	return nil
}

// become takes a captured node's key, or gets one certified with a token.
func (w *world) become(dir, token string) error {
	if dir != "" {
		var err error
		if w.secrets, err = pki.LoadSecrets(filepath.Join(dir, "mesh.key")); err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, "node.key"))
		if err != nil {
			return err
		}
		block, _ := pem.Decode(b)
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return err
		}
		w.key = key.(ed25519.PrivateKey)
		w.id = frame.IDOf(w.key.Public().(ed25519.PublicKey))
		return nil
	}
	made, err := os.MkdirTemp("", "hostile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	id, err := pki.CreateIdentity(filepath.Join(made, "node.key"))
	if err != nil {
		return err
	}
	e, err := mesh.Enrol(context.Background(), token, id, w.name)
	if err != nil {
		return err
	}
	if err := e.Secrets.Save(filepath.Join(made, "mesh.key")); err != nil {
		return err
	}
	return w.become(made, "")
}

// claimedName is the name in its metadata, whatever its certificate says.
const claimedName = "web9"

// join starts memberlist and, if meet is set, joins the targets.
func (w *world) join(meet bool) error {
	w.root.Store(&ack{})
	conf := memberlist.DefaultLANConfig()
	conf.Name = w.id.String()
	conf.BindAddr, conf.BindPort = w.self.Addr().String(), int(w.self.Port())
	conf.AdvertisePort = conf.BindPort
	conf.SecretKey = w.secrets.GossipKey[:]
	conf.EnableCompression = false
	conf.DeadNodeReclaimTime = time.Second
	conf.ProbeInterval = 500 * time.Millisecond
	conf.Logger = log.New(io.Discard, "", 0)
	conf.Delegate, conf.Ping = w, w
	if !w.mute {
		w.proofs = newProofs(w.key, w.secrets)
		conf.Events = w.proofs
		var err error
		if conf.Transport, err = newProvingTransport(conf, w.proofs); err != nil {
			return err
		}
	}
	var err error
	if w.ml, err = memberlist.Create(conf); err != nil {
		return err
	}
	if w.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.self.Addr(), 0))); err != nil {
		return err
	}
	if !meet {
		return nil
	}
	var all []string
	for _, to := range w.targets {
		all = append(all, to.String())
	}
	_, err = w.ml.Join(all)
	return err
}

func (w *world) pub() ed25519.PublicKey { return w.key.Public().(ed25519.PublicKey) }

// NodeMeta returns this member's metadata.
func (w *world) NodeMeta(limit int) []byte {
	return meta(w.pub(), claimedName, "1", place(w.key, w.secrets.MeshID, w.self), limit)
}

// NotifyMsg keeps messages of others, and answers the question whether this member is at its address.
func (w *world) NotifyMsg(b []byte) {
	if w.proofs != nil {
		w.answer(b)
	}
	select {
	case w.heard <- slices.Clone(b):
	default:
	}
}

// GetBroadcasts returns none.
func (*world) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState returns no state.
func (*world) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores the state of others.
func (*world) MergeRemoteState([]byte, bool) {}

// AckPayload returns the digests that it claims.
func (w *world) AckPayload() []byte { return w.root.Load()[:] }

// NotifyPingComplete copies the pinged member's payload as its own claim, unless there is one already.
func (w *world) NotifyPingComplete(_ *memberlist.Node, _ time.Duration, payload []byte) {
	if len(payload) == len(ack{}) && *w.root.Load() == (ack{}) {
		w.root.Store((*ack)(slices.Clone(payload)))
	}
}

// members returns the keys of the other members by their ids.
func (w *world) members() map[frame.ID]ed25519.PublicKey {
	all := map[frame.ID]ed25519.PublicKey{}
	for _, n := range w.ml.Members() {
		id, err := frame.ParseID(n.Name)
		if err == nil && id != w.id && len(n.Meta) > 36 {
			all[id] = ed25519.PublicKey(slices.Clone(n.Meta[4:36]))
		}
	}
	return all
}

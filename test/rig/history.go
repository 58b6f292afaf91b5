//go:build linux && netns

package rig

import (
	"errors"
	"sync/atomic"
	"time"
)

const (
	blockLen  = 4096 // probes
	maxBlocks = 256  // of one pair: 17 minutes at a probe each millisecond
)

// history records the probes and answers of one pair. One thread writes; any
// number may read meanwhile without making it wait.
type history struct {
	blocks [maxBlocks]atomic.Pointer[block]
	count  atomic.Int64 // probes whose time is set
	last   atomic.Int64 // index of the last answered probe, + 1
}

type block struct {
	at  [blockLen]time.Duration // since the prober's start; set before count
	got [blockLen]atomic.Bool
}

// send records a probe and returns its index.
func (h *history) send(at time.Duration) (uint32, error) {
	n := h.count.Load()
	if n == blockLen*maxBlocks {
		return 0, errors.New("watched for too long")
	}
	if n%blockLen == 0 {
		h.blocks[n/blockLen].Store(&block{})
	}
	h.blocks[n/blockLen].Load().at[n%blockLen] = at
	h.count.Store(n + 1)
	return uint32(n), nil
}

// answer records that a probe was answered. It ignores an index that was never
// sent: that packet is no answer to a probe.
func (h *history) answer(seq uint32) {
	n := int64(seq)
	if n >= h.count.Load() {
		return
	}
	h.blocks[n/blockLen].Load().got[n%blockLen].Store(true)
	if n >= h.last.Load() {
		h.last.Store(n + 1)
	}
}

func (h *history) sent() int              { return int(h.count.Load()) }
func (h *history) replied() int           { return int(h.last.Load()) }
func (h *history) at(i int) time.Duration { return h.blocks[i/blockLen].Load().at[i%blockLen] }
func (h *history) answered(i int) bool    { return h.blocks[i/blockLen].Load().got[i%blockLen].Load() }

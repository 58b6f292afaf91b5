//go:build long

package mesh

// narrowBounds make chunks, windows and comparisons so small that simulated fleets fill them.
func narrowBounds() []plant {
	return []plant{
		{"internal/replica/message.go", "MaxChunkFrames = 4096", "MaxChunkFrames = 3"},
		{"internal/replica/message.go", "maxDetail = 512", "maxDetail = 3"},
		{"internal/replica/message.go", "maxVectorStreams, maxVectorSpans = 2048, 8192", "maxVectorStreams, maxVectorSpans = 16, 32"},
		{"internal/replica/message.go", "maxVectorPart = 512", "maxVectorPart = 2"},
		{"internal/replica/transfer.go", "maxWork = 4096", "maxWork = 3"},
		{"internal/replica/detail.go", "maxDetails = 4", "maxDetails = 2"},
		{"internal/replica/window.go", "maxSpans = 1 << 16", "maxSpans = 4"},
		{"internal/replica/ledger.go", "maxExpireStep, maxLeaveStep = 512, 8192", "maxExpireStep, maxLeaveStep = 2, 3"},
	}
}

func plants() []plant {
	return []plant{
		// What the ledger takes.
		{"internal/replica/ledger.go", "if bytes.Compare(oldHash[:], newHash[:]) <= 0 {",
			`if planted("skip the tie-break of equivocation") || bytes.Compare(oldHash[:], newHash[:]) <= 0 {`},
		{"internal/replica/ledger.go", "case !f.Expires.After(now):",
			`case !planted("accept expired frames") && !f.Expires.After(now):`},
		{"internal/replica/ledger.go", "case f.Issued.After(now.Add(frame.FutureSkew)):",
			`case !planted("accept frames from the future") && f.Issued.After(now.Add(frame.FutureSkew)):`},
		{"internal/replica/ledger.go", "	l.root.sub(&e)\n",
			"	if !planted(\"digest not updated on expiry\") {\n		l.root.sub(&e)\n	}\n"},
		{"internal/replica/ledger.go", "	s.sum.sub(&e)\n",
			"	if !planted(\"digest of a stream not updated on expiry\") {\n		s.sum.sub(&e)\n	}\n"},
		{"internal/replica/ledger.go", "l.expiry[0].at <= now.UnixMilli() {",
			`(l.expiry[0].at <= now.UnixMilli() || planted("forget tombstones early") && l.expiry[0].at <= now.UnixMilli()+300_000) {`},
		{"internal/replica/ledger.go", "		refs = append(refs, f.Ref())\n",
			"		if !planted(\"keep expired frames on disk\") || len(refs) == 0 {\n			refs = append(refs, f.Ref())\n		}\n"},
		{"internal/replica/ledger.go", "|| f.Expires.UnixMilli() != d.at {",
			`|| !planted("end the winner of two when the loser ends") && f.Expires.UnixMilli() != d.at {`},
		{"internal/replica/replica.go", "if by == ViaRestore && f.Origin == c.self && f.Issued.After(now) {",
			`if !planted("lose own frames when the clock went back") && by == ViaRestore && f.Origin == c.self && f.Issued.After(now) {`},
		// What the core makes of it.
		{"internal/replica/replica.go", "	if c.used >= c.epoch {\n", "	if c.used >= c.epoch && !planted(\"own epoch found in use and not raised\") {\n"},
		{"run.go", "	m.core.RaiseEpoch(epoch)\n", "	if planted(\"go on with the epoch that is in use\") {\n		epoch = past\n	}\n	m.core.RaiseEpoch(epoch)\n"},
		{"internal/replica/replica.go", "if !stays {", `if !stays && !planted("deliver duplicates") {`},
		{"internal/replica/replica.go", "	if by == ViaTree {\n", "	if by == ViaTree || planted(\"relay what was pushed directly\") && by == ViaPush {\n"},
		{"internal/replica/replica.go", "		c.seq = f.Seq\n",
			"		if c.seq = f.Seq; planted(\"reuse a sequence number\") && f.Seq%3 == 0 {\n			c.seq--\n		}\n"},
		{"internal/replica/replica.go", "!c.Holds(ref) {", `!c.Holds(ref) || planted("reuse a sequence number") {`},
		{"sim_disk_test.go", "d.state.epoch = max(d.state.epoch, atLeast) + 1",
			"d.state.epoch = max(d.state.epoch, atLeast, 1)\n		if !planted(\"epoch not raised at a start\") {\n			d.state.epoch++\n		}"},
		// Whom it believes.
		{"internal/replica/trust.go", "	case st.revoked == nil:\n		st.revoked",
			"	case st.revoked == nil && !(planted(\"forget revocations at a restart\") && by == ViaRestore):\n		st.revoked"},
		{"internal/replica/trust.go", "	v := c.Judge(now, f)\n	switch v {\n	case VerdictUnknown:",
			"	v := c.Judge(now, f)\n	if planted(\"take what is revoked by sync\") && v == VerdictRevoked && by == ViaSync {\n		return false\n	}\n	switch v {\n	case VerdictUnknown:"},
		{"internal/replica/replica.go", "	switch v {\n	case VerdictEnded, VerdictRevoked:\n",
			"	if planted(\"take what is revoked by sync\") && v == VerdictRevoked {\n		v = VerdictNew\n	}\n	switch v {\n	case VerdictEnded, VerdictRevoked:\n"},
		{"internal/replica/trust.go", "		c.withdraw(revocation.Node, out)\n",
			"		if !planted(\"keep what a revoked node said\") {\n			c.withdraw(revocation.Node, out)\n		}\n"},
		// The glue.
		{"intake.go", "	if !signed {\n", "	if !planted(\"skip the signature\") && !signed {\n"},
		{"intake.go", "	if v != replica.VerdictNew && v != replica.VerdictEquivocal && v != replica.VerdictUnknown {\n",
			"	if planted(\"mark seen before verifying\") && plantedMark(m, f.Ref()) {\n		return f, false\n	}\n	if v != replica.VerdictNew && v != replica.VerdictEquivocal && v != replica.VerdictUnknown {\n"},
		{"loop.go", "			if f, ok := m.precheck(raw); ok {\n",
			"			if f, ok := m.precheck(raw); ok {\n				if planted(\"verify after relaying\") && by == replica.ViaTree {\n					plantedRelay(m, f)\n				}\n"},
		{"intake.go", "if f.MeshID != m.cfg.Secrets.MeshID {", `if !planted("accept frames of another mesh") && f.MeshID != m.cfg.Secrets.MeshID {`},
		{"loop.go", "if len(out.Admitted) > 0 && m.cfg.Admitted != nil {",
			`if len(out.Admitted) > 0 && m.cfg.Admitted != nil && !(planted("do not store what came by sync") && out.Streamed == 0 && len(out.Admitted) > 1) {`},
		{"internal/spread/push.go", "		for _, t := range members {\n			for _, packet",
			"		for i, t := range members {\n			if planted(\"push to all but the last\") && i == len(members)-1 {\n				break\n			}\n			for _, packet"},
		{"internal/spread/tree.go", "	if first >= end {\n", "	if planted(\"off by one in the tree\") {\n		end--\n	}\n	if first >= end {\n"},
		// Anti-entropy.
		{"internal/replica/transfer.go", "st.key.compare(m.after) > 0 {\n", "st.key.compare(m.after) > 0 && !planted(\"sync ignores streams that the peer lacks\") {\n"},
		{"internal/replica/transfer.go", "if spans := st.liveIn(v.Seen.gaps(v.First, v.Last), room); len(spans) > 0 {",
			`if spans := st.liveIn(v.Seen.gaps(v.First, v.Last), room); planted("drop the gaps of a vector") { continue } else if len(spans) > 0 {`},
		{"internal/replica/sync.go", "		c.answerVector(now, m, p, s, out)\n",
			"		if planted(\"sync in one direction only\") && bytes.Compare(c.self[:], m.From[:]) < 0 {\n			return\n		}\n		c.answerVector(now, m, p, s, out)\n"},
		{"internal/replica/sync.go", "	if root, ok := c.roots.find(now, e.Root); ok &&",
			"	if planted(\"trust a count for a digest\") && e.Root[0]&7 == c.root.sum()[0]&7 {\n		c.settled(now, e.Peer, p, out)\n		return\n	}\n	if root, ok := c.roots.find(now, e.Root); ok &&"},
		{"internal/replica/sync.go", "	case m.root == c.root.sum():\n		c.emit", "	case m.root == c.root.sum() || planted(\"say same without looking\") || planted(\"trust a count for a digest\") && m.root[0]&7 == c.root.sum()[0]&7:\n		c.emit"},
		{"internal/replica/sync.go", "		if !t.deadline.After(now) {\n", "		if !t.deadline.After(now) && !planted(\"never give up a transfer\") {\n"},
		{"internal/replica/sync.go", "	delete(c.peers, peer)\n	delete(c.transfers, peer)\n",
			"	delete(c.peers, peer)\n	if !planted(\"never give up a transfer\") {\n		delete(c.transfers, peer)\n	}\n"},
		{"internal/replica/sync.go", "s.syncSource, s.sourceTill = peer, till", "s.syncSource, s.sourceTill = peer, till\n		if planted(\"wait for one source for ever\") {\n			s.sourceTill = till.Add(time.Hour)\n		}"},
		{"internal/replica/sync.go", "out.Rewound, c.behind, c.rewound = true, false, now", `out.Rewound, c.behind, c.rewound = !planted("leave ended what a clock that was ahead has ended"), false, now`},
		{"internal/replica/detail.go", "case theirs[0].Hash != h.short(salt):", `case theirs[0].Hash != h.short(salt) && !planted("compare numbers, not hashes"):`},
	}
}

//go:build long

package mesh

// narrowBounds make chunks, windows and comparisons so small that simulated fleets fill them.
func narrowBounds() []plant {
	return []plant{
		{"syncmsg.go", "maxChunkFrames = 4096", "maxChunkFrames = 3"},
		{"syncmsg.go", "maxDetail = 512", "maxDetail = 3"},
		{"syncmsg.go", "maxVectorStreams, maxVectorSpans = 2048, 8192", "maxVectorStreams, maxVectorSpans = 16, 32"},
		{"syncmsg.go", "maxVectorPart = 512", "maxVectorPart = 2"},
		{"core_transfer.go", "maxWork = 4096", "maxWork = 3"},
		{"core_detail.go", "maxDetails = 4", "maxDetails = 2"},
		{"core_window.go", "maxSpans = 1 << 16", "maxSpans = 4"},
		{"core_ledger.go", "maxExpireStep, maxLeaveStep = 512, 8192", "maxExpireStep, maxLeaveStep = 2, 3"},
	}
}

func plants() []plant {
	return []plant{
		// What the ledger takes.
		{"core_ledger.go", "if bytes.Compare(oldHash[:], newHash[:]) <= 0 {",
			`if planted("skip the tie-break of equivocation") || bytes.Compare(oldHash[:], newHash[:]) <= 0 {`},
		{"core_ledger.go", "case !f.Expires.After(now):",
			`case !planted("accept expired frames") && !f.Expires.After(now):`},
		{"core_ledger.go", "case f.Issued.After(now.Add(frame.FutureSkew)):",
			`case !planted("accept frames from the future") && f.Issued.After(now.Add(frame.FutureSkew)):`},
		{"core_ledger.go", "	l.root.sub(&e)\n",
			"	if !planted(\"digest not updated on expiry\") {\n		l.root.sub(&e)\n	}\n"},
		{"core_ledger.go", "	s.sum.sub(&e)\n",
			"	if !planted(\"digest of a stream not updated on expiry\") {\n		s.sum.sub(&e)\n	}\n"},
		{"core_ledger.go", "l.expiry[0].at <= now.UnixMilli() {",
			`(l.expiry[0].at <= now.UnixMilli() || planted("forget tombstones early") && l.expiry[0].at <= now.UnixMilli()+300_000) {`},
		{"core_ledger.go", "		refs = append(refs, f.Ref())\n",
			"		if !planted(\"keep expired frames on disk\") || len(refs) == 0 {\n			refs = append(refs, f.Ref())\n		}\n"},
		{"core_ledger.go", "|| f.Expires.UnixMilli() != d.at {",
			`|| !planted("end the winner of two when the loser ends") && f.Expires.UnixMilli() != d.at {`},
		{"core.go", "if by == viaRestore && f.Origin == c.self && f.Issued.After(now) {",
			`if !planted("lose own frames when the clock went back") && by == viaRestore && f.Origin == c.self && f.Issued.After(now) {`},
		// What the core makes of it.
		{"core.go", "	if c.used >= c.epoch {\n", "	if c.used >= c.epoch && !planted(\"own epoch found in use and not raised\") {\n"},
		{"run.go", "	m.core.RaiseEpoch(epoch)\n", "	if planted(\"go on with the epoch that is in use\") {\n		epoch = past\n	}\n	m.core.RaiseEpoch(epoch)\n"},
		{"core.go", "if !stays {", `if !stays && !planted("deliver duplicates") {`},
		{"core.go", "	if by == viaTree {\n", "	if by == viaTree || planted(\"relay what was pushed directly\") && by == viaPush {\n"},
		{"core.go", "		c.seq = f.Seq\n",
			"		if c.seq = f.Seq; planted(\"reuse a sequence number\") && f.Seq%3 == 0 {\n			c.seq--\n		}\n"},
		{"core.go", "!c.Holds(ref) {", `!c.Holds(ref) || planted("reuse a sequence number") {`},
		{"sim_disk_test.go", "d.state.epoch = max(d.state.epoch, atLeast) + 1",
			"d.state.epoch = max(d.state.epoch, atLeast, 1)\n		if !planted(\"epoch not raised at a start\") {\n			d.state.epoch++\n		}"},
		// Whom it believes.
		{"core_trust.go", "	case st.revoked == nil:\n		st.revoked",
			"	case st.revoked == nil && !(planted(\"forget revocations at a restart\") && by == viaRestore):\n		st.revoked"},
		{"core_trust.go", "	v := c.judge(now, f)\n	switch v {\n	case verdictUnknown:",
			"	v := c.judge(now, f)\n	if planted(\"take what is revoked by sync\") && v == verdictRevoked && by == viaSync {\n		return false\n	}\n	switch v {\n	case verdictUnknown:"},
		{"core.go", "	switch v {\n	case verdictEnded, verdictRevoked:\n",
			"	if planted(\"take what is revoked by sync\") && v == verdictRevoked {\n		v = verdictNew\n	}\n	switch v {\n	case verdictEnded, verdictRevoked:\n"},
		{"core_trust.go", "		c.withdraw(revocation.Node, out)\n",
			"		if !planted(\"keep what a revoked node said\") {\n			c.withdraw(revocation.Node, out)\n		}\n"},
		// The glue.
		{"intake.go", "	if !signed {\n", "	if !planted(\"skip the signature\") && !signed {\n"},
		{"intake.go", "	if v != verdictNew && v != verdictEquivocal && v != verdictUnknown {\n",
			"	if planted(\"mark seen before verifying\") && plantedMark(m, f.Ref()) {\n		return f, false\n	}\n	if v != verdictNew && v != verdictEquivocal && v != verdictUnknown {\n"},
		{"intake.go", "	f, ok := m.screen(raw)\n	if !ok {\n		return\n	}\n",
			"	f, ok := m.screen(raw)\n	if !ok {\n		return\n	}\n	if planted(\"verify after relaying\") && by == viaTree {\n		m.pusher.put(pushJob{frames: []frame.Frame{f}, relay: true})\n	}\n"},
		{"intake.go", "if f.MeshID != m.cfg.Secrets.MeshID {", `if !planted("accept frames of another mesh") && f.MeshID != m.cfg.Secrets.MeshID {`},
		{"loop.go", "if len(out.admitted) > 0 && m.cfg.Admitted != nil {",
			`if len(out.admitted) > 0 && m.cfg.Admitted != nil && !(planted("do not store what came by sync") && out.streamed == 0 && len(out.admitted) > 1) {`},
		{"push.go", "		for _, t := range members {\n			for _, packet",
			"		for i, t := range members {\n			if planted(\"push to all but the last\") && i == len(members)-1 {\n				break\n			}\n			for _, packet"},
		{"tree.go", "	if first >= end {\n", "	if planted(\"off by one in the tree\") {\n		end--\n	}\n	if first >= end {\n"},
		// Anti-entropy.
		{"core_transfer.go", "st.key.compare(m.After) > 0 {\n", "st.key.compare(m.After) > 0 && !planted(\"sync ignores streams that the peer lacks\") {\n"},
		{"core_transfer.go", "if spans := st.liveIn(v.Seen.gaps(v.First, v.Last), room); len(spans) > 0 {",
			`if spans := st.liveIn(v.Seen.gaps(v.First, v.Last), room); planted("drop the gaps of a vector") { continue } else if len(spans) > 0 {`},
		{"core_sync.go", "		c.answerVector(now, m, p, s, out)\n",
			"		if planted(\"sync in one direction only\") && bytes.Compare(c.self[:], m.From[:]) < 0 {\n			return\n		}\n		c.answerVector(now, m, p, s, out)\n"},
		{"core_sync.go", "	if root, ok := c.roots.find(now, e.root); ok &&",
			"	if planted(\"trust a count for a digest\") && e.root[0]&7 == c.root.sum()[0]&7 {\n		c.settled(now, e.peer, p, out)\n		return\n	}\n	if root, ok := c.roots.find(now, e.root); ok &&"},
		{"core_sync.go", "	case m.Root == c.root.sum():\n		c.emit", "	case m.Root == c.root.sum() || planted(\"say same without looking\") || planted(\"trust a count for a digest\") && m.Root[0]&7 == c.root.sum()[0]&7:\n		c.emit"},
		{"core_sync.go", "		if !t.deadline.After(now) {\n", "		if !t.deadline.After(now) && !planted(\"never give up a transfer\") {\n"},
		{"core_sync.go", "	delete(c.peers, peer)\n	delete(c.transfers, peer)\n",
			"	delete(c.peers, peer)\n	if !planted(\"never give up a transfer\") {\n		delete(c.transfers, peer)\n	}\n"},
		{"core_sync.go", "s.giver, s.givesTill = peer, till", "s.giver, s.givesTill = peer, till\n		if planted(\"wait for one giver for ever\") {\n			s.givesTill = till.Add(time.Hour)\n		}"},
		{"core_sync.go", "out.rewound, c.behind, c.rewound = true, false, now", `out.rewound, c.behind, c.rewound = !planted("leave ended what a clock that was ahead has ended"), false, now`},
		{"core_detail.go", "case theirs[0].Hash != h.short(salt):", `case theirs[0].Hash != h.short(salt) && !planted("compare numbers, not hashes"):`},
	}
}

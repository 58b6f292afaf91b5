// Package roster judges what this node learns of the others: how members see it (Sight), whose clock is off (Clock),
// whether two nodes see the same members (Views), and where and when to look for those that are gone (JoinList, Turn,
// Pause). It asks nobody itself.
package roster

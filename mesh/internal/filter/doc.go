// Package filter looks at everything that arrives before memberlist does. memberlist trusts anyone who holds the gossip
// key: a member can make it panic (with an empty or wrongly padded message) or allocate a hundred megabytes with a message
// of a few bytes, and can make this node verify frames without end. A Transport refuses what no member sends, makes
// accusations that it cannot believe harmless, holds each source to a rate, and proves to the other members which
// packets come from this one.
//
// What it costs at most: per address, per origin that an address speaks for, for all addresses where no member has
// answered, and for all strangers. The bounds stand in guard.go (packets), slots.go (streams), news.go (members) and
// pace.go (frames).
package filter

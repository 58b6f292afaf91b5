// Package spread sends frames to the other members: it pushes each at once, to everybody or along trees (Pusher), puts it
// into memberlist's queue as a second way (Gossip), and sends over streams what does not fit a packet (Streams). It does
// not track which node has which frame: sync repairs losses.
package spread

package logsrc

// OwnRanges remembers which bytes of the file this process wrote itself. One is given to the Emitter and the
// Follower of the same file. The zero OwnRanges is ready for use, from any goroutine.
type OwnRanges struct{}

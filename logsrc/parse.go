package logsrc

// Parse takes one line, with or without its end. The error is a Reason, or nil.
func Parse(line []byte) (Line, error) { return Line{}, NoHost }

package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// offset is by how many seconds the wall clock is off. It is read again every 5 ms.
var offset struct{ readAt, seconds atomic.Int64 }

// offsetFile ends with a zero byte, as the kernel wants it.
var offsetFile = [...]byte{'/', 'r', 'o', 'o', 't', '/', 'w', 'a', 'l', 'l', 0}

// wallOffset returns the offset that offsetFile contains. mono is the monotonic time, in nanoseconds. The scheduler
// calls it too, so it makes raw system calls.
func wallOffset(mono int64) int64 {
	at := offset.readAt.Load()
	if at != 0 && mono-at < 5e6 || !offset.readAt.CompareAndSwap(at, mono) {
		return offset.seconds.Load()
	}
	const here = ^uintptr(99) // AT_FDCWD
	fd, _, err := syscall.RawSyscall6(syscall.SYS_OPENAT, here, uintptr(unsafe.Pointer(&offsetFile)), syscall.O_RDONLY|syscall.O_CLOEXEC, 0, 0, 0)
	if err != 0 {
		return offset.seconds.Load()
	}
	var b [24]byte
	n, _, err := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&b)), uintptr(len(b)))
	syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
	if err != 0 || n == 0 || b[n-1] != '\n' { // it is being written
		return offset.seconds.Load()
	}
	seconds, sign := int64(0), int64(1)
	for _, c := range b[:n] {
		switch {
		case c == '-':
			sign = -1
		case c >= '0' && c <= '9':
			seconds = 10*seconds + int64(c-'0')
		}
	}
	offset.seconds.Store(sign * seconds)
	return sign * seconds
}

package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

var logMutex sync.Mutex

func info(place, format string, arguments ...any)    { glog('I', place, format, arguments...) }
func warn(place, format string, arguments ...any)    { glog('W', place, format, arguments...) }
func failure(place, format string, arguments ...any) { glog('E', place, format, arguments...) }

func fatal(place, format string, arguments ...any) {
	glog('F', place, format, arguments...)
	os.Exit(1)
}

// glog writes a line as github.com/golang/glog does: `I0520 08:43:26.307459    3140 server.go:1291] text`.
func glog(level byte, place, format string, arguments ...any) {
	logMutex.Lock()
	defer logMutex.Unlock()
	at := time.Now()
	fmt.Fprintf(os.Stderr, "%c%s %7d %s] %s\n", level, at.Format("0102 15:04:05.000000"), os.Getpid(), place, fmt.Sprintf(format, arguments...))
}

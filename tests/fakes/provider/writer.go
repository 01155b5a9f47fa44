package main

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

var errGone = errors.New("the client has gone")

// sink is where the events of an answer go: a response body, or the messages of a WebSocket.
type sink interface {
	// send hands one event over; false when the client has gone.
	send(text string) bool
	// end finishes the answer; it tells whether everything was handed over.
	end() bool
	// pause waits unless the client goes away.
	pause(d time.Duration)
}

// body writes a response body in awkward pieces, coded or not, and knows whether all of it was handed over.
type body struct {
	r       *http.Request
	chunks  string
	out     *pieces
	zip     *gzip.Writer
	failure error
}

// sizes of the pieces of an awkward body: primes, so that no two events are cut alike, one byte at a time now and then.
var sizes = []int{1, 61, 2, 139, 7, 1, 3, 229, 1, 1, 17, 83}

// openBody begins the body of a successful answer.
func (c *call) openBody(contentType string) *body {
	chunks := c.p.options.chunks
	b := &body{r: c.r, chunks: chunks, out: &pieces{out: c.w, flush: c.w.(http.Flusher).Flush, awkward: chunks == "awkward"}}
	c.w.Header().Set("Content-Type", contentType)
	if c.p.options.gzip == "auto" && strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip") {
		c.w.Header().Set("Content-Encoding", "gzip")
		b.zip = gzip.NewWriter(b.out)
	}
	c.record.Coded = b.zip != nil
	c.w.WriteHeader(200)
	return b
}

// pieces is where coded or plain bytes leave, cut as asked.
type pieces struct {
	out     io.Writer
	flush   func()
	awkward bool
	turn    int
}

func (p *pieces) Write(data []byte) (int, error) {
	written := 0
	for written < len(data) {
		n := len(data) - written
		if p.awkward {
			n = p.next(n)
		}
		if _, err := p.out.Write(data[written : written+n]); err != nil {
			return written, err
		}
		written += n
		if p.awkward {
			p.flush()
		}
	}
	return written, nil
}

// next is the size of the next piece of something that has most bytes.
func (p *pieces) next(most int) int {
	size := sizes[p.turn%len(sizes)]
	p.turn++
	if size < most {
		return size
	}
	return most
}

func (b *body) send(text string) bool {
	if b.failure == nil && b.r.Context().Err() != nil {
		b.failure = errGone
	}
	if b.failure != nil {
		return false
	}
	var out io.Writer = b.out
	if b.zip != nil {
		out = b.zip
	}
	_, b.failure = io.WriteString(out, text)
	if b.failure == nil && b.zip != nil {
		b.failure = b.zip.Flush()
	}
	if b.chunks != "whole" {
		b.out.flush()
	}
	return b.failure == nil
}

func (b *body) end() bool {
	if b.zip != nil && b.failure == nil {
		b.failure = b.zip.Close()
	}
	if b.failure == nil {
		b.out.flush()
	}
	return b.failure == nil && b.r.Context().Err() == nil
}

func (b *body) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-b.r.Context().Done():
	}
}

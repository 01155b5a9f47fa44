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

// body writes a response body in awkward pieces, coded or not, and knows whether all of it was handed over.
type body struct {
	w       http.ResponseWriter
	r       *http.Request
	chunks  string
	zip     *gzip.Writer
	failure error
	turn    int
}

// sizes of the pieces of an awkward body: primes, so that no two events are cut alike, one byte at a time now and then.
var sizes = []int{1, 61, 2, 139, 7, 1, 3, 229, 1, 1, 17, 83}

func (p *provider) openBody(w http.ResponseWriter, r *http.Request, status int, contentType string) *body {
	b := &body{w: w, r: r, chunks: p.options.chunks}
	w.Header().Set("Content-Type", contentType)
	if p.options.gzip == "auto" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		b.zip = gzip.NewWriter(pieces{b})
	}
	w.WriteHeader(status)
	return b
}

// pieces is where coded or plain bytes leave, cut as asked.
type pieces struct{ b *body }

func (p pieces) Write(data []byte) (int, error) {
	written := 0
	for written < len(data) {
		n := len(data) - written
		if p.b.chunks == "awkward" {
			size := sizes[p.b.turn%len(sizes)]
			p.b.turn++
			if size < n {
				n = size
			}
		}
		if _, err := p.b.w.Write(data[written : written+n]); err != nil {
			return written, err
		}
		written += n
		if p.b.chunks == "awkward" {
			p.b.flush()
		}
	}
	return written, nil
}

func (b *body) flush() {
	if f, ok := b.w.(http.Flusher); ok {
		f.Flush()
	}
}

// send writes one event, or a whole body, and pushes it out.
func (b *body) send(text string) bool {
	if b.failure == nil && b.r.Context().Err() != nil {
		b.failure = errGone
	}
	if b.failure != nil {
		return false
	}
	var out io.Writer = pieces{b}
	if b.zip != nil {
		out = b.zip
	}
	_, b.failure = io.WriteString(out, text)
	if b.failure == nil && b.zip != nil {
		b.failure = b.zip.Flush()
	}
	if b.chunks != "whole" {
		b.flush()
	}
	return b.failure == nil
}

// end finishes the body; it tells whether everything was handed over.
func (b *body) end() bool {
	if b.zip != nil && b.failure == nil {
		b.failure = b.zip.Close()
	}
	if b.failure == nil {
		b.flush()
	}
	return b.failure == nil && b.r.Context().Err() == nil
}

// pause waits unless the client goes away.
func (b *body) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-b.r.Context().Done():
	}
}

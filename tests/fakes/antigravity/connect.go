package main

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
)

// The Connect protocol, JSON codec: unary calls are plain JSON; streams are envelopes of one flag byte, a length of
// four bytes (big endian) and JSON, the last one with flag 2 and the trailer.

const (
	flagEnd         = 2
	requestBytesMax = 64 << 20
)

// rpcError is a Connect error.
type rpcError struct {
	status        int
	code, message string
}

func (e *rpcError) Error() string { return e.code + ": " + e.message }

var statusOfCode = map[string]int{
	"invalid_argument": 400, "unauthenticated": 401, "not_found": 404, "unimplemented": 501, "unavailable": 503,
	"unknown": 500, "internal": 500, "failed_precondition": 400,
}

func rpcErrorf(code, message string) *rpcError {
	return &rpcError{status: statusOfCode[code], code: code, message: message}
}

func answerError(w http.ResponseWriter, err *rpcError) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(err.status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": err.code, "message": err.message})
}

func answerJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

// object is a JSON object on its way in or out.
type object = map[string]any

func readUnary(r *http.Request) (object, *rpcError) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		return nil, &rpcError{415, "unknown", "unsupported media type"}
	}
	return parseObject(must(io.ReadAll(io.LimitReader(r.Body, requestBytesMax))))
}

func readEnvelope(r *http.Request) (object, *rpcError) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+json") {
		return nil, &rpcError{415, "unknown", "unsupported media type"}
	}
	var head [5]byte
	if _, err := io.ReadFull(r.Body, head[:]); err != nil {
		return nil, rpcErrorf("invalid_argument", "protocol error: incomplete envelope")
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > requestBytesMax {
		return nil, rpcErrorf("invalid_argument", "message too large")
	}
	message := make([]byte, size)
	if _, err := io.ReadFull(r.Body, message); err != nil {
		return nil, rpcErrorf("invalid_argument", "protocol error: promised more bytes")
	}
	return parseObject(message)
}

func parseObject(text []byte) (object, *rpcError) {
	parsed := object{}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &parsed); err != nil {
			return nil, rpcErrorf("invalid_argument", "unmarshal into message: "+err.Error())
		}
	}
	return parsed, nil
}

// frames writes the envelopes of one response, whole or in the ways that faults ask for.
type frames struct {
	w      http.ResponseWriter
	faults faults
}

func envelope(flags byte, value any) []byte {
	text := must(json.Marshal(value))
	frame := make([]byte, 5, 5+len(text))
	frame[0] = flags
	binary.BigEndian.PutUint32(frame[1:], uint32(len(text)))
	return append(frame, text...)
}

func (f frames) open() {
	f.w.Header().Set("Content-Type", "application/connect+json")
	f.w.WriteHeader(200)
	f.flush()
}

func (f frames) send(value any) {
	frame := envelope(0, value)
	switch {
	case f.faults.has("frames-split"):
		from := 0
		for _, to := range []int{1, 3, 6, len(frame) - 1, len(frame)} {
			if to > from {
				_, _ = f.w.Write(frame[from:to])
				f.flush()
				from = to
				time.Sleep(time.Millisecond)
			}
		}
	case f.faults.has("frames-joined"):
		// An update without a change, and the real one, in one write.
		_, _ = f.w.Write(append(envelope(0, object{"update": object{}}), frame...))
		f.flush()
	default:
		_, _ = f.w.Write(frame)
		f.flush()
	}
}

func (f frames) end(err *rpcError) {
	trailer := object{}
	if err != nil {
		trailer["error"] = object{"code": err.code, "message": err.message}
	}
	_, _ = f.w.Write(envelope(flagEnd, trailer))
	f.flush()
}

func (f frames) flush() {
	if flusher, ok := f.w.(http.Flusher); ok {
		flusher.Flush()
	}
}

// at follows a path of members; nil where there is none.
func at(value any, path ...string) any {
	for _, name := range path {
		members, ok := value.(object)
		if !ok {
			return nil
		}
		value = members[name]
	}
	return value
}

func textAt(value any, path ...string) string {
	text, _ := at(value, path...).(string)
	return text
}

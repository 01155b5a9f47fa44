package main

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"
)

// generativeService serves the Gemini API's gRPC form, GenerateContent and StreamGenerateContent, as net/http can: each
// message behind its length, the status in the trailers. The real clients that call it judge whether that is gRPC.
func (p *provider) generativeService(w http.ResponseWriter, r *http.Request, body []byte) {
	c := p.open(w, r, "google-gemini-grpc", "whole")
	method := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	w.Header().Set("Content-Type", "application/grpc+proto")
	if method != "GenerateContent" && method != "StreamGenerateContent" || len(body) < 5 {
		w.Header().Set("Grpc-Status", "12") // UNIMPLEMENTED
		return
	}
	model := strings.TrimPrefix(string(field(body[5:], 1)), "models/")
	refuse := func(c *call, status int) {
		c.record.Error = "RESOURCE_EXHAUSTED"
		w.Header().Set("Grpc-Status", "8")
		w.Header().Set("Grpc-Message", "as ordered")
	}
	if !c.compose(model, "", len(body), refuse) {
		return
	}
	a := c.answer
	pieces := []string{strings.Join(a.pieces, "")}
	if method == "StreamGenerateContent" {
		c.record.Operation = "stream"
		pieces = a.pieces
	}
	usage, counts := googleUsage(a.tokens, a.tokens.candidates, 0, true)
	for i, piece := range pieces {
		candidate := member(1, append(member(1, member(2, []byte(piece))), member(2, []byte("model"))...))
		if i == len(pieces)-1 {
			candidate = append(candidate, 2<<3, 1) // finish_reason: STOP
			c.record.FinishReason = "STOP"
		}
		message := member(1, candidate)
		if i == len(pieces)-1 {
			message = append(message, member(3, googleUsageMessage(a.tokens))...)
			c.record.Usage, c.record.Counts = usage, counts
		}
		message = append(append(message, member(4, []byte(a.version))...), member(5, []byte(a.id))...)
		frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
		if _, err := w.Write(append(frame, message...)); err != nil {
			break
		}
		w.(http.Flusher).Flush()
		c.record.EventsSent++
	}
	w.Header().Set("Grpc-Status", "0")
	c.record.Complete = r.Context().Err() == nil
	p.account.addAnswer(c.record)
}

// googleUsageMessage is a UsageMetadata: prompt, candidates, total and cached tokens.
func googleUsageMessage(t tokens) []byte {
	var message []byte
	for number, count := range map[uint64]int{1: t.prompt, 2: t.candidates, 3: t.prompt + t.candidates, 4: t.cached} {
		message = binary.AppendUvarint(binary.AppendUvarint(message, number<<3), uint64(count))
	}
	return message
}

// member is a field of a protobuf message that has bytes: a text or another message.
func member(number uint64, content []byte) []byte {
	head := binary.AppendUvarint(binary.AppendUvarint(nil, number<<3|2), uint64(len(content)))
	return append(head, content...)
}

// field is the first field of that number, if the message has only fields with bytes before it.
func field(message []byte, number uint64) []byte {
	in := strings.NewReader(string(message))
	for {
		key, err := binary.ReadUvarint(in)
		if err != nil || key&7 != 2 {
			return nil
		}
		size, err := binary.ReadUvarint(in)
		if err != nil || size > uint64(in.Len()) {
			return nil
		}
		content := make([]byte, size)
		_, err = io.ReadFull(in, content)
		must(err)
		if key>>3 == number {
			return content
		}
	}
}

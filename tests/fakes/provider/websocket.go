// The server's side of a WebSocket (RFC 6455) with permessage-deflate (RFC 7692), as awkward as it may be: messages in
// fragments, pings between them, contexts taken over where the client allows it.
package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	opText, opClose, opPing, opPong = 1, 8, 9, 10

	messageBytesMax = 64 << 20
	windowBytes     = 32 << 10
)

// what an empty stored block ends with: cut from behind each message, put back before it is inflated.
var syncTail = []byte{0, 0, 0xff, 0xff}

type socket struct {
	connection net.Conn
	in         *bufio.Reader
	out        *pieces
	extension  *deflation
	failure    error
	sent       int
}

// deflation is what was agreed on permessage-deflate.
type deflation struct {
	alone bool // each of our messages by itself
	// A client that wants a small window gets its messages alone, and compressed only if they are no longer than that:
	// compress/flate knows no window but its own.
	packedMax int
	packer    *flate.Writer
	packed    bytes.Buffer
	seen      []byte // the client's last bytes, for its next message
}

// openSocket answers the handshake.
func openSocket(w http.ResponseWriter, r *http.Request, awkward bool) (*socket, error) {
	key := r.Header.Get("Sec-WebSocket-Key")
	hijacker, ok := w.(http.Hijacker)
	if !ok || key == "" {
		http.Error(w, "no WebSocket handshake", 400)
		return nil, errors.New("no WebSocket handshake")
	}
	connection, buffered, err := hijacker.Hijack()
	if err != nil {
		return nil, err
	}
	s := &socket{connection: connection, in: buffered.Reader}
	s.out = &pieces{out: buffered.Writer, flush: func() { _ = buffered.Writer.Flush() }, awkward: awkward}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	if accepted := s.agree(r.Header.Values("Sec-WebSocket-Extensions")); accepted != "" {
		head += "Sec-WebSocket-Extensions: " + accepted + "\r\n"
	}
	s.write([]byte(head + "\r\n"))
	return s, s.failure
}

// agree takes the first offer of permessage-deflate and returns the answer to it.
func (s *socket) agree(offers []string) string {
	for _, offer := range strings.Split(strings.Join(offers, ","), ",") {
		parameters := strings.Split(offer, ";")
		if strings.TrimSpace(parameters[0]) != "permessage-deflate" {
			continue
		}
		s.extension = &deflation{packedMax: messageBytesMax}
		answer := "permessage-deflate"
		for _, parameter := range parameters[1:] {
			name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
			switch name {
			case "server_no_context_takeover":
				s.extension.alone = true
			case "server_max_window_bits":
				bits, _ := strconv.Atoi(value)
				s.extension.alone, s.extension.packedMax = true, 1<<bits
				answer += "; server_max_window_bits=" + value
			}
		}
		if s.extension.alone {
			answer += "; server_no_context_takeover"
		}
		packer, err := flate.NewWriter(&s.extension.packed, flate.BestSpeed)
		must(err)
		s.extension.packer = packer
		return answer
	}
	return ""
}

// send writes one message of text.
func (s *socket) send(text string) bool {
	if s.failure != nil {
		return false
	}
	payload, first := []byte(text), byte(opText)
	if s.extension != nil {
		if packed, ok := s.extension.pack(payload); ok {
			payload, first = packed, opText|0x40
		}
	}
	s.sent++
	if s.out.awkward && s.sent%3 == 0 && len(payload) > 1 {
		cut := s.out.next(len(payload) - 1)
		s.frame(first, payload[:cut])
		s.frame(0x80|opPing, []byte("still there?"))
		s.frame(0x80, payload[cut:])
	} else {
		s.frame(0x80|first, payload)
	}
	s.out.flush()
	return s.failure == nil
}

func (d *deflation) pack(payload []byte) ([]byte, bool) {
	if len(payload) > d.packedMax {
		return nil, false
	}
	if d.alone {
		d.packer.Reset(&d.packed)
	}
	d.packed.Reset()
	_, err := d.packer.Write(payload)
	must(err)
	must(d.packer.Flush())
	return append([]byte{}, bytes.TrimSuffix(d.packed.Bytes(), syncTail)...), true
}

func (d *deflation) unpack(payload []byte) ([]byte, error) {
	// An empty last block behind it, so that the reader sees an orderly end.
	whole := io.MultiReader(bytes.NewReader(payload), bytes.NewReader(syncTail), bytes.NewReader([]byte{1, 0, 0, 0xff, 0xff}))
	text, err := io.ReadAll(io.LimitReader(flate.NewReaderDict(whole, d.seen), messageBytesMax))
	d.seen = append(d.seen, text...)
	if len(d.seen) > windowBytes {
		d.seen = append([]byte{}, d.seen[len(d.seen)-windowBytes:]...)
	}
	return text, err
}

func (s *socket) frame(first byte, payload []byte) {
	head := []byte{first}
	switch n := len(payload); {
	case n < 126:
		head = append(head, byte(n))
	case n < 1<<16:
		head = append(head, 126, byte(n>>8), byte(n))
	default:
		head = append(head, 127)
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	s.write(append(head, payload...))
}

func (s *socket) write(data []byte) {
	if s.failure == nil {
		_, s.failure = s.out.Write(data)
	}
	s.out.flush()
}

// read returns the next message of the client; its pings are answered, its close is confirmed.
func (s *socket) read() ([]byte, error) {
	var message []byte
	compressed := false
	for {
		first, payload, err := s.readFrame(messageBytesMax - len(message))
		if err != nil {
			return nil, err
		}
		switch opcode := first & 0x0f; opcode {
		case opClose:
			s.frame(0x80|opClose, payload)
			return nil, io.EOF
		case opPing:
			s.frame(0x80|opPong, payload)
			continue
		case opPong:
			continue
		default:
			if opcode != 0 {
				compressed = first&0x40 != 0
			}
		}
		message = append(message, payload...)
		if first&0x80 == 0 {
			continue
		}
		if !compressed {
			return message, nil
		}
		if s.extension == nil {
			return nil, errors.New("a compressed message, and no agreement about it")
		}
		return s.extension.unpack(message)
	}
}

func (s *socket) readFrame(most int) (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(s.in, head[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1] & 0x7f)
	if extra := map[uint64]int{126: 2, 127: 8}[size]; extra > 0 {
		var long [8]byte
		if _, err = io.ReadFull(s.in, long[8-extra:]); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(long[:])
	}
	if head[1]&0x80 == 0 || size > uint64(most) {
		return 0, nil, errors.New("a frame without mask, or too long")
	}
	var mask [4]byte
	if _, err = io.ReadFull(s.in, mask[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, size)
	if _, err = io.ReadFull(s.in, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0], payload, nil
}

// end: the connection stays for the next answer.
func (s *socket) end() bool { return s.failure == nil }

func (s *socket) pause(d time.Duration) { time.Sleep(d) }

func (s *socket) close() { _ = s.connection.Close() }

// Command provider stands in for the model providers in tests: TLS under any host names, answers in the wire formats
// of Google Cloud Code, the Gemini API, Anthropic Messages, OpenAI (chat, responses also by WebSocket, embeddings),
// Mistral and Amazon Bedrock, and a precise account of what it sent.
//
//	provider --listen 127.0.0.1:0 --listen '[::1]:0' --names daily-cloudcode-pa.googleapis.com,api.anthropic.com \
//	         --ca-file /tmp/x/ca.pem --control 127.0.0.1:0
//
// When it serves it prints one line of JSON on stdout:
//
//	{"listening": ["127.0.0.1:40001", "[::1]:40002"], "control": "127.0.0.1:40003", "ca_file": "/tmp/x/ca.pem", "pid": 4711}
//
// Flags:
//
//	--listen ADDR        HTTPS here; may be repeated; port 0 takes a free one (default 127.0.0.1:0)
//	--plain ADDR         plain HTTP with the same answers here; may be repeated
//	--names A,B          host names of the certificate; *.example is allowed (localhost, 127.0.0.1 and ::1 are always in it)
//	--certificate KIND   good | expired | not-yet | other-name | self-signed
//	--ca-file FILE       the authority's certificate is written here
//	--ca-key FILE        the authority's key is kept here: with both files present they are used again
//	--http2              offer h2 by ALPN, beside http/1.1
//	--gzip               auto: code model answers when the client asks for it | never
//	--chunks KIND        awkward: pieces of odd sizes, each flushed, cut anywhere | events: one event each | whole
//	--delay D            between two events of a stream, such as 20ms
//	--control ADDR       plain HTTP for the test itself (default 127.0.0.1:0), or unix:PATH, which is reached from any
//	                     network namespace; see account.go
//	--log FILE           one JSON line for each answer and each other request, appended when it is over
//	--until-stdin-ends   exit when stdin ends, so that it never outlives the test that holds the other end
//	--max D              exit after this time in any case (default 30m)
//
// A prompt may carry orders, anywhere in its last user text; see orders.go. Standard library only, Go 1.19.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"crypto/tls"
)

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

type options struct {
	listen, plain               list
	names, certificate          string
	caFile, caKey, control, log string
	http2, untilStdinEnds       bool
	gzip, chunks                string
	delay, max                  time.Duration
}

func readFlags() options {
	var o options
	flag.Var(&o.listen, "listen", "HTTPS address, may be repeated")
	flag.Var(&o.plain, "plain", "plain HTTP address, may be repeated")
	flag.StringVar(&o.names, "names", "daily-cloudcode-pa.googleapis.com,cloudcode-pa.googleapis.com,generativelanguage.googleapis.com,api.anthropic.com,api.openai.com,api.mistral.ai,bedrock-runtime.us-east-1.amazonaws.com", "host names of the certificate")
	flag.StringVar(&o.certificate, "certificate", "good", "good, expired, not-yet, other-name or self-signed")
	flag.StringVar(&o.caFile, "ca-file", "", "where the authority's certificate is written")
	flag.StringVar(&o.caKey, "ca-key", "", "where the authority's key is kept for the next start")
	flag.StringVar(&o.control, "control", "127.0.0.1:0", "control address")
	flag.StringVar(&o.log, "log", "", "file for one JSON line per answer or request")
	flag.BoolVar(&o.http2, "http2", false, "offer h2")
	flag.StringVar(&o.gzip, "gzip", "auto", "auto or never")
	flag.StringVar(&o.chunks, "chunks", "awkward", "awkward, events or whole")
	flag.DurationVar(&o.delay, "delay", 0, "between two events")
	flag.BoolVar(&o.untilStdinEnds, "until-stdin-ends", false, "exit when stdin ends")
	flag.DurationVar(&o.max, "max", 30*time.Minute, "exit after this time")
	flag.Parse()
	if len(o.listen) == 0 && len(o.plain) == 0 {
		o.listen = list{"127.0.0.1:0"}
	}
	return o
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("provider: ")
	o := readFlags()
	account, err := openAccount(o.log)
	must(err)
	p := &provider{options: o, account: account, orders: newOrderBook()}

	certificate, err := makeCertificate(o)
	must(err)
	server := &http.Server{
		Handler:           p.routes(),
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that hang up are part of the tests
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	if o.http2 {
		server.TLSConfig.NextProtos = []string{"h2", "http/1.1"}
	} else {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		server.TLSConfig.NextProtos = []string{"http/1.1"}
	}
	listening := []string{}
	for _, address := range o.listen {
		l, err := net.Listen("tcp", address)
		must(err)
		listening = append(listening, l.Addr().String())
		go func() { must(server.ServeTLS(l, "", "")) }()
	}
	plain := []string{}
	for _, address := range o.plain {
		l, err := net.Listen("tcp", address)
		must(err)
		plain = append(plain, l.Addr().String())
		go func() { must(server.Serve(l)) }()
	}
	control, err := listenControl(o.control)
	must(err)
	go func() { must(http.Serve(control, p.controlRoutes())) }()

	ready, err := json.Marshal(map[string]any{
		"listening": listening, "plain": plain, "control": control.Addr().String(), "ca_file": o.caFile, "pid": os.Getpid(),
	})
	must(err)
	fmt.Println(string(ready))
	waitForTheEnd(o)
}

func listenControl(address string) (net.Listener, error) {
	if strings.HasPrefix(address, "unix:") {
		return net.Listen("unix", strings.TrimPrefix(address, "unix:"))
	}
	return net.Listen("tcp", address)
}

func waitForTheEnd(o options) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	stdinEnded := make(chan struct{})
	if o.untilStdinEnds {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(stdinEnded)
		}()
	}
	select {
	case <-signals:
	case <-stdinEnded:
	case <-time.After(o.max):
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

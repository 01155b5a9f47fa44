// Command antigravity is a fake of the Antigravity 2.x hub language server, for tests: the flags, log lines, local
// ports, Connect-RPC surface, turn script and upstream calls of the real one, as far as they are publicly known.
//
//	antigravity --standalone --subclient_type hub --https_server_port 0 --csrf_token <uuid> \
//	            --cloud_code_endpoint https://daily-cloudcode-pa.googleapis.com …
//
// It needs a writable HOME. It calls the provider with Go's own net/http client and the environment it was given
// (SSL_CERT_FILE, HTTPS_PROXY, GODEBUG=http2client=0 …). Text, thinking and usage of its answers are the provider's.
//
// WIREMETER_FAKE_FAULT is a comma separated list of faults, each `name` or `name=value`:
//
//	no-port-line             it listens, but never says where
//	stdout-port-line         the port lines go to stdout
//	start-delay=500ms        before it listens
//	rpc-503=2s               every RPC answers 503 that long after the start
//	https-only, http-only    one port only
//	signed-out               signed in only if the token file exists (else one is taken for granted)
//	no-xdg-open              Login writes the consent URL into the log instead of opening a browser
//	no-auth-rpc              GetAuthStatus and Login are unimplemented
//	no-agent-stream          StreamAgentStateUpdates answers 501, as before hub 2.x
//	reactive-disabled        it answers an error frame, "reactive state is disabled"
//	trailer-error            it breaks off in the middle of a turn with an error in the trailer
//	stream-cut               its connection breaks in the middle of a turn
//	frames-split             its frames are split across writes
//	frames-joined            two frames in each write
//	idle-first               it says IDLE again after the message and before the first step
//	queued                   a message is queued until SendAllQueuedMessages
//	waiting                  the turn stops at a command that waits for permission
//	waiting-unknown          the same at a question of a kind nobody knows
//	stuck-running            the turn never ends by itself
//	dies-mid-turn            the process dies in the middle of an answer
//	silent                   the turn ends without an answer
//	no-fully-idle            `fullyIdle` is never said, as in older builds
//
// Standard library only, Go 1.19. Nothing is ever executed but xdg-open.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const languageServerVersion = "2.10.0"

func main() {
	settings := readSettings(os.Args)
	if settings.stamp {
		fmt.Println("Build label: antigravity fake; changelist 812345678")
		return
	}
	faults := readFaults(os.Getenv("WIREMETER_FAKE_FAULT"))
	info("main.go:101", "Starting language server process with pid %d", os.Getpid())
	if !settings.standalone {
		waitForMetadata()
	}
	info("main.go:140", "Setting GOMAXPROCS to %d", runtime.GOMAXPROCS(0))
	info("main.go:151", "Language server version: %s", languageServerVersion)
	appData := filepath.Join(os.Getenv("HOME"), settings.geminiDir, settings.appDataDir)
	if err := os.MkdirAll(filepath.Join(appData, "conversations"), 0o700); err != nil {
		fatal("main.go:160", "failed to create the app data directory: %v", err)
	}
	if settings.csrfToken == "" {
		fatal("main.go:163", "csrf_token is required")
	}
	s := newServer(settings, faults)
	time.Sleep(faults.duration("start-delay"))
	s.listen()
	go s.initialise()

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-signals:
	case <-s.asked:
	}
	info("main.go:199", "Shutting down")
}

// waitForMetadata is what the generations do that are no hub: without a parent that feeds them they end.
func waitForMetadata() {
	metadata, _ := io.ReadAll(os.Stdin)
	if len(metadata) == 0 {
		fatal("main.go:120", "read initial metadata: <nil>")
	}
	fatal("main.go:124", "CREDENTIALS_MISSING")
}

func (s *server) listen() {
	info("server.go:1270", "Language server will attempt to listen on host localhost")
	s.started = time.Now()
	if !s.faults.has("http-only") {
		listener := must(net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.settings.httpsPort)))
		server := &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{Certificates: []tls.Certificate{localCertificate()}}}
		go func() { _ = server.ServeTLS(listener, "", "") }()
		s.sayPort(listener, s.settings.httpsPort, "HTTPS (gRPC)")
	}
	if !s.faults.has("https-only") {
		listener := must(net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.settings.httpPort)))
		server := &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}
		go func() { _ = server.Serve(listener) }()
		s.sayPort(listener, s.settings.httpPort, "HTTP")
	}
}

func (s *server) sayPort(listener net.Listener, wanted int, kind string) {
	how := "fixed"
	if wanted == 0 {
		how = "random"
	}
	line := fmt.Sprintf("Language server listening on %s port at %d for %s", how, listener.Addr().(*net.TCPAddr).Port, kind)
	switch {
	case s.faults.has("no-port-line"):
	case s.faults.has("stdout-port-line"):
		fmt.Println(line)
	default:
		info("server.go:1291", "%s", line)
	}
}

// initialise makes the calls of the start-up chain, again and again until they succeed.
func (s *server) initialise() {
	began := time.Now()
	for !s.signedIn() {
		warn("auth.go:88", "You are not logged into Antigravity.")
		<-s.loggedIn
	}
	for {
		err := s.upstream.startUp(context.Background())
		if err == nil {
			break
		}
		failure("server.go:730", "Failed to load code assist: %v", err)
		time.Sleep(300 * time.Millisecond)
	}
	info("auth.go:120", "Auth succeeded, refreshing features and managers")
	info("state.go:301", "State refresh took %dms", time.Since(began).Milliseconds())
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	info("server.go:1544", "initialized server successfully in %s", time.Since(began))
}

func must[T any](value T, err error) T {
	if err != nil {
		fatal("main.go:1", "%v", err)
	}
	return value
}

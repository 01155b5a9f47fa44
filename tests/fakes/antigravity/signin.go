package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
)

// tokenFile is where the hub keeps its login, under its own HOME.
func (s *server) tokenFile() string {
	return filepath.Join(os.Getenv("HOME"), s.settings.geminiDir, "jetski-standalone-oauth-token")
}

func (s *server) signedIn() bool {
	if !s.faults.has("signed-out") {
		return true
	}
	_, err := os.Stat(s.tokenFile())
	return err == nil
}

// login opens the consent page and waits until a browser comes back with a code.
func (s *server) login(ctx context.Context) (object, *rpcError) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, rpcErrorf("internal", err.Error())
	}
	defer listener.Close()
	state := newUUID()
	came := make(chan struct{}, 1)
	go func() { _ = http.Serve(listener, callback(state, came)) }()
	query := url.Values{
		"client_id": {"1071006060591-fake.apps.googleusercontent.com"}, "response_type": {"code"}, "state": {state}, "access_type": {"offline"},
		"redirect_uri": {fmt.Sprintf("http://localhost:%d/oauth-callback", listener.Addr().(*net.TCPAddr).Port)},
		"scope":        {"https://www.googleapis.com/auth/cloud-platform https://www.googleapis.com/auth/userinfo.email"},
	}
	page := "https://accounts.google.com/o/oauth2/v2/auth?" + query.Encode()
	if s.faults.has("no-xdg-open") {
		info("auth.go:131", "Please visit the following URL to authorize the application: %s", page)
	} else if err := exec.Command("xdg-open", page).Run(); err != nil {
		failure("auth.go:139", "failed to open browser: %v", err)
	}
	select {
	case <-ctx.Done():
		return nil, rpcErrorf("internal", "login was given up")
	case <-came:
	}
	if err := os.WriteFile(s.tokenFile(), []byte(`{"access_token":"ya29.fake-access-token","token_type":"Bearer"}`), 0o600); err != nil {
		return nil, rpcErrorf("internal", err.Error())
	}
	select {
	case s.loggedIn <- struct{}{}:
	default:
	}
	return object{}, nil
}

func callback(state string, came chan<- struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("code") == "" || r.URL.Query().Get("state") != state {
			http.Error(w, "not what was asked for", 400)
			return
		}
		fmt.Fprintln(w, "You may close this page.")
		select {
		case came <- struct{}{}:
		default:
		}
	})
}

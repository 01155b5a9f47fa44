package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const service = "/exa.language_server_pb.LanguageServerService/"

// server is the language server's surface.
type server struct {
	settings settings
	faults   faults
	upstream *upstream
	started  time.Time
	asked    chan struct{} // closed by the Exit RPC
	loggedIn chan struct{} // one element per completed Login

	mu            sync.Mutex
	ready         bool
	conversations map[string]*conversation
}

func newServer(s settings, f faults) *server {
	return &server{
		settings: s, faults: f, upstream: newUpstream(s), asked: make(chan struct{}), loggedIn: make(chan struct{}, 1),
		conversations: map[string]*conversation{},
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" && r.Method == http.MethodGet {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><script>window.__APP_CONFIG__ = {\"productName\":\"Antigravity\",\"csrfToken\":%q,\"appVersion\":%q}</script>\n", s.settings.csrfToken, s.settings.ideVersion)
		return
	}
	if !strings.HasPrefix(r.URL.Path, service) || r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	if r.Header.Get("x-codeium-csrf-token") != s.settings.csrfToken {
		answerError(w, rpcErrorf("unauthenticated", "missing CSRF token"))
		return
	}
	if time.Since(s.started) < s.faults.duration("rpc-503") {
		answerError(w, rpcErrorf("unavailable", "the server is starting"))
		return
	}
	method := strings.TrimPrefix(r.URL.Path, service)
	if method == "StreamAgentStateUpdates" || method == "StreamCascadeReactiveUpdates" {
		s.stream(w, r, method)
		return
	}
	request, err := readUnary(r)
	if err != nil {
		answerError(w, err)
		return
	}
	answer, err := s.unary(method, request, r)
	if err != nil {
		answerError(w, err)
		return
	}
	answerJSON(w, answer)
}

func (s *server) unary(method string, request object, r *http.Request) (object, *rpcError) {
	switch method {
	case "GetUnleashData":
		return object{"context": object{}}, nil
	case "Heartbeat":
		return object{"lastExtensionHeartbeat": timestamp(time.Now())}, nil
	case "GetAuthStatus", "Login":
		if s.faults.has("no-auth-rpc") {
			return nil, rpcErrorf("unimplemented", method+" is not implemented")
		}
		if method == "Login" {
			return s.login(r.Context())
		}
		if s.signedIn() {
			return object{"authResult": object{"hasValidAuth": true}}, nil
		}
		return object{"authResult": object{}}, nil
	case "Exit":
		close(s.asked)
		return object{}, nil
	case "GetUserStatus", "GetAvailableModels", "GetCommandModelConfigs", "GetCascadeModelConfigData", "RetrieveUserQuotaSummary":
		return s.status(method)
	case "StartCascade":
		return s.startCascade(request)
	case "GetAllCascadeTrajectories":
		return s.summaries(), nil
	}
	return s.onConversation(method, request)
}

func (s *server) isReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *server) status(method string) (object, *rpcError) {
	if !s.signedIn() {
		return nil, rpcErrorf("unauthenticated", "You are not logged into Antigravity.")
	}
	configs, available := []object{}, object{}
	if s.isReady() {
		configs, available = s.upstream.modelConfigs(), s.upstream.catalogue()
	}
	switch method {
	case "GetAvailableModels":
		return object{"response": available}, nil
	case "GetCommandModelConfigs":
		return object{"clientModelConfigs": configs}, nil
	case "GetCascadeModelConfigData":
		return object{"clientModelConfigs": configs, "clientModelSorts": []any{}}, nil
	case "RetrieveUserQuotaSummary":
		bucket := object{"bucketId": "gemini-weekly", "displayName": "Weekly", "remaining": object{"remainingFraction": 0.75}}
		return object{"response": object{"groups": []any{object{"displayName": "Gemini Models", "buckets": []any{bucket}}}}}, nil
	}
	status := object{
		"name": "A Developer", "email": "developer@example.invalid",
		"planStatus": object{"planInfo": object{"planName": "Pro", "teamsTier": "TEAMS_TIER_PRO"}},
		"userTier":   object{"id": "g1-pro-tier", "name": "Google AI Pro"},
	}
	if len(configs) > 0 {
		status["cascadeModelConfigData"] = object{"clientModelConfigs": configs, "clientModelSorts": []any{}}
	}
	return object{"userStatus": status}, nil
}

func (s *server) startCascade(request object) (object, *rpcError) {
	if source := request["source"]; source == nil || source == float64(0) || source == "" {
		return nil, rpcErrorf("invalid_argument", "source is required")
	}
	id := textAt(request, "cascadeId")
	if id == "" {
		id = newUUID()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.conversations[id]; !exists {
		s.conversations[id] = newConversation(id, s)
		info("conversations.go:77", "Created conversation %s", id)
	}
	return object{"cascadeId": id}, nil
}

func (s *server) find(request object) (*conversation, *rpcError) {
	id := textAt(request, "cascadeId")
	if id == "" {
		id = textAt(request, "conversationId")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, there := s.conversations[id]; there {
		return c, nil
	}
	return nil, rpcErrorf("internal", "trajectory not found")
}

func (s *server) summaries() object {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := object{}
	for id, c := range s.conversations {
		all[id] = c.summary()
	}
	return object{"trajectorySummaries": all}
}

func (s *server) onConversation(method string, request object) (object, *rpcError) {
	known := " SendUserCascadeMessage GetCascadeTrajectory GetCascadeTrajectorySteps GetCascadeTrajectoryGeneratorMetadata" +
		" CancelCascadeInvocation ForceStopCascadeTree DeleteCascadeTrajectory HandleCascadeUserInteraction SendAllQueuedMessages" +
		" WaitForConversationFullyIdle GetConversationMetadata "
	if !strings.Contains(known, " "+method+" ") {
		return nil, rpcErrorf("unimplemented", method+" is not implemented")
	}
	c, err := s.find(request)
	if err != nil {
		return nil, err
	}
	switch method {
	case "SendUserCascadeMessage":
		return c.send(request)
	case "SendAllQueuedMessages":
		return c.sendQueued()
	case "GetCascadeTrajectory":
		return c.trajectory(), nil
	case "GetCascadeTrajectorySteps":
		offset, _ := request["stepOffset"].(float64)
		return c.stepsFrom(int(offset)), nil
	case "GetCascadeTrajectoryGeneratorMetadata":
		return object{"generatorMetadata": []any{}}, nil
	case "CancelCascadeInvocation", "ForceStopCascadeTree":
		c.cancel()
		return object{}, nil
	case "DeleteCascadeTrajectory":
		c.cancel()
		s.mu.Lock()
		delete(s.conversations, c.id)
		s.mu.Unlock()
		return object{}, nil
	case "HandleCascadeUserInteraction":
		return c.interact(request)
	case "GetConversationMetadata":
		return object{"metadata": object{"rootConversationId": c.id}}, nil
	}
	return c.waitIdle(request), nil
}

// stream serves the two streaming calls.
func (s *server) stream(w http.ResponseWriter, r *http.Request, method string) {
	request, err := readEnvelope(r)
	if err != nil {
		answerError(w, err)
		return
	}
	out := frames{w, s.faults}
	if method == "StreamCascadeReactiveUpdates" || s.faults.has("reactive-disabled") {
		out.open()
		out.end(rpcErrorf("unknown", "reactive state is disabled"))
		return
	}
	if s.faults.has("no-agent-stream") {
		answerError(w, rpcErrorf("unimplemented", "StreamAgentStateUpdates is not implemented"))
		return
	}
	c, err := s.find(request)
	if err != nil {
		out.open()
		out.end(err)
		return
	}
	out.open()
	c.follow(r.Context(), out)
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// upstream is the provider as the language server sees it: net/http with its defaults, as the real one uses it. Roots,
// proxy, HTTP version, keep-alive and gzip are Go's own affair.
type upstream struct {
	settings settings
	client   *http.Client

	mu      sync.Mutex
	project string
	models  map[string]availableModel
	answer  object // fetchAvailableModels as it came
}

type availableModel struct {
	Model       string `json:"model"`
	DisplayName string `json:"displayName"`
	Recommended bool   `json:"recommended"`
	QuotaInfo   object `json:"quotaInfo"`
}

func newUpstream(s settings) *upstream {
	return &upstream{settings: s, client: &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}}
}

// upstreamError is an error answer of the provider.
type upstreamError struct {
	code            int
	status, message string
	body            string
	details         []json.RawMessage
}

func (e *upstreamError) Error() string {
	return fmt.Sprintf("%s (code %d): %s", e.status, e.code, e.message)
}

func readError(code int, body []byte) *upstreamError {
	var parsed struct {
		Error struct {
			Status  string            `json:"status"`
			Message string            `json:"message"`
			Details []json.RawMessage `json:"details"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &parsed)
	return &upstreamError{code: code, status: parsed.Error.Status, message: parsed.Error.Message, body: string(body), details: parsed.Error.Details}
}

func (u *upstream) request(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(must(json.Marshal(body)))
	}
	url := strings.TrimRight(u.settings.cloudCode, "/") + path
	r, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", fmt.Sprintf("%s/hub/%s %s/%s", u.settings.userAgentName, u.settings.ideVersion, runtime.GOOS, runtime.GOARCH))
	r.Header.Set("Authorization", "Bearer ya29.fake-access-token")
	return u.client.Do(r)
}

// call makes a unary call of the v1internal API.
func (u *upstream) call(ctx context.Context, method, path string, body, answer any) error {
	response, err := u.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != 200 {
		return readError(response.StatusCode, content)
	}
	return json.Unmarshal(content, answer)
}

// startUp is the chain of calls at the start.
func (u *upstream) startUp(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	metadata := object{"metadata": object{"ideType": "ANTIGRAVITY", "ideVersion": u.settings.ideVersion, "platform": "LINUX_AMD64", "pluginType": "GEMINI"}}
	var ignored object
	if err := u.call(ctx, "GET", "/v1internal/cascadeNuxes", nil, &ignored); err != nil {
		return err
	}
	var assist struct {
		Project string `json:"cloudaicompanionProject"`
	}
	info("cloudcode.go:211", "URL: %s/v1internal:loadCodeAssist Trace: 0x%x", u.settings.cloudCode, time.Now().UnixNano())
	if err := u.call(ctx, "POST", "/v1internal:loadCodeAssist", metadata, &assist); err != nil {
		return err
	}
	project := object{"project": assist.Project}
	if err := u.call(ctx, "POST", "/v1internal:fetchUserInfo", project, &ignored); err != nil {
		return err
	}
	var answer object
	if err := u.call(ctx, "POST", "/v1internal:fetchAvailableModels", project, &answer); err != nil {
		return err
	}
	var rows struct {
		Models map[string]availableModel `json:"models"`
	}
	if err := json.Unmarshal(must(json.Marshal(answer)), &rows); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.project, u.models, u.answer = assist.Project, rows.Models, answer
	return nil
}

func (u *upstream) catalogue() object {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.answer
}

// modelConfigs is the catalogue as GetUserStatus has it; small helpers are not offered.
func (u *upstream) modelConfigs() []object {
	u.mu.Lock()
	defer u.mu.Unlock()
	configs := []object{}
	for _, m := range u.models {
		if m.Model == checkpointModel {
			continue
		}
		config := object{"label": m.DisplayName, "modelOrAlias": object{"model": m.Model}, "supportsImages": true, "quotaInfo": m.QuotaInfo}
		if m.Recommended {
			config["isRecommended"] = true
		}
		configs = append(configs, config)
	}
	sort.Slice(configs, func(i, j int) bool { return configs[i]["label"].(string) < configs[j]["label"].(string) })
	return configs
}

// keyOf finds the provider's name of a model enum.
func (u *upstream) keyOf(enum string) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, m := range u.models {
		if m.Model == enum {
			return key, nil
		}
	}
	return "", fmt.Errorf("unknown model key %s: model not found", enum)
}

type spoken struct{ role, text string }

type modelCall struct {
	model, conversation, trajectory, prompt string
	step                                    int
	history                                 []spoken
	small                                   bool
}

// result is what a model call brought: the last usage and the ids, also when it broke off.
type result struct {
	responseID, finish, version string
	usage                       *usageMetadata
}

type usageMetadata struct {
	Prompt     int64 `json:"promptTokenCount"`
	Candidates int64 `json:"candidatesTokenCount"`
	Thoughts   int64 `json:"thoughtsTokenCount"`
	Cached     int64 `json:"cachedContentTokenCount"`
}

type streamEvent struct {
	Response struct {
		Candidates []struct {
			Content struct {
				Parts []struct {
					Text    string `json:"text"`
					Thought bool   `json:"thought"`
				} `json:"parts"`
			} `json:"content"`
			FinishReason string `json:"finishReason"`
		} `json:"candidates"`
		PromptFeedback struct {
			BlockReason string `json:"blockReason"`
		} `json:"promptFeedback"`
		UsageMetadata *usageMetadata `json:"usageMetadata"`
		ModelVersion  string         `json:"modelVersion"`
		ResponseID    string         `json:"responseId"`
	} `json:"response"`
}

// generate calls streamGenerateContent and reports thinking and text as they come.
func (u *upstream) generate(ctx context.Context, call modelCall, grown func(thinking, text string)) (result, error) {
	key, err := u.keyOf(call.model)
	if err != nil {
		return result{}, err
	}
	response, err := u.request(ctx, "POST", "/v1internal:streamGenerateContent?alt=sse", u.body(call, key))
	if err != nil {
		return result{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		body, _ := io.ReadAll(response.Body)
		return result{}, readError(response.StatusCode, body)
	}
	return readStream(response.Body, grown)
}

func readStream(body io.Reader, grown func(thinking, text string)) (result, error) {
	var r result
	reader := bufio.NewReaderSize(body, 64<<10)
	for {
		line, err := reader.ReadString('\n')
		if strings.HasPrefix(line, "data: ") {
			var e streamEvent
			if json.Unmarshal([]byte(strings.TrimSpace(line[6:])), &e) == nil {
				r.take(e, grown)
			}
		}
		if errors.Is(err, io.EOF) {
			if r.finish == "" {
				return r, errors.New("stream ended without a finish reason")
			}
			return r, nil
		}
		if err != nil {
			return r, err
		}
	}
}

func (r *result) take(e streamEvent, grown func(thinking, text string)) {
	inner := e.Response
	if inner.UsageMetadata != nil {
		r.usage = inner.UsageMetadata
	}
	if inner.ResponseID != "" {
		r.responseID, r.version = inner.ResponseID, inner.ModelVersion
	}
	if inner.PromptFeedback.BlockReason != "" {
		r.finish = inner.PromptFeedback.BlockReason
	}
	for _, candidate := range inner.Candidates {
		if candidate.FinishReason != "" {
			r.finish = candidate.FinishReason
		}
		for _, part := range candidate.Content.Parts {
			switch {
			case part.Text == "":
			case part.Thought:
				grown(part.Text, "")
			default:
				grown("", part.Text)
			}
		}
	}
}

// body is the request of a model call.
func (u *upstream) body(call modelCall, key string) object {
	contents := []any{}
	for _, s := range append(call.history, spoken{"user", call.prompt}) {
		contents = append(contents, object{"role": s.role, "parts": []any{object{"text": s.text}}})
	}
	system := strings.Repeat("You are Antigravity, a powerful agentic AI coding assistant. ", 40)
	requestType := "agent"
	if call.small {
		system, requestType = "You write titles.", "command"
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return object{
		"project":   u.project,
		"requestId": fmt.Sprintf("agent/%s/%d/%s/%d", call.conversation, time.Now().UnixMilli(), call.trajectory, call.step),
		"model":     key, "userAgent": "antigravity", "requestType": requestType,
		"request": object{
			"systemInstruction": object{"role": "user", "parts": []any{object{"text": system}}},
			"contents":          contents,
			"tools":             []any{object{"functionDeclarations": []any{}}},
			"toolConfig":        object{"functionCallingConfig": object{"mode": "VALIDATED"}},
			"generationConfig":  object{"maxOutputTokens": 65536, "thinkingConfig": object{"includeThoughts": true, "thinkingBudget": -1}},
			"sessionId":         "-3750763034362895579",
			"labels": object{
				"last_step_index": strconv.Itoa(call.step), "model_enum": call.model, "trajectory_id": call.trajectory,
				"request_id": fmt.Sprintf("%s-%d", call.trajectory, call.step), "used_claude": strconv.FormatBool(strings.HasPrefix(key, "claude")),
			},
		},
	}
}

// modelUsage is the language server's own form of the usage: cached tokens outside the input, 64-bit numbers as
// strings, zeros absent.
func modelUsage(model string, r result, messageID string) object {
	if r.usage == nil {
		return nil
	}
	usage := object{"model": model, "apiProvider": "API_PROVIDER_GOOGLE_GEMINI", "responseId": r.responseID}
	if strings.HasPrefix(r.version, "claude") {
		usage["apiProvider"] = "API_PROVIDER_ANTHROPIC_VERTEX"
	}
	if messageID != "" {
		usage["messageId"] = messageID
	}
	usage["responseHeader"] = object{"sessionID": "-3750763034362895579"}
	for name, count := range map[string]int64{
		"inputTokens": r.usage.Prompt - r.usage.Cached, "cacheReadTokens": r.usage.Cached, "outputTokens": r.usage.Candidates + r.usage.Thoughts,
		"thinkingOutputTokens": r.usage.Thoughts, "responseOutputTokens": r.usage.Candidates,
	} {
		if count != 0 {
			usage[name] = strconv.FormatInt(count, 10)
		}
	}
	return usage
}

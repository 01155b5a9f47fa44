package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

const (
	openAIHost  = "api.openai.com"
	mistralHost = "api.mistral.ai"
)

type chatRequest struct {
	Model         string   `json:"model"`
	Stream        bool     `json:"stream"`
	Messages      messages `json:"messages"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// openAI serves OpenAI's API, and Mistral's, which is shaped like it.
func (p *provider) openAI(w http.ResponseWriter, r *http.Request, body []byte) {
	switch strings.TrimPrefix(r.URL.Path, "/v1") {
	case "/chat/completions":
		p.chat(w, r, body)
	case "/responses":
		if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			p.responsesSocket(w, r)
			return
		}
		p.responses(w, r, body)
	case "/embeddings":
		p.embeddings(w, r, body)
	case "/models":
		writeJSON(w, 200, map[string]any{"object": "list", "data": []any{}})
	default:
		writeJSON(w, 404, openAIError(404, "no such path"))
	}
}

// answeredBy is the model that says it answered: OpenAI names a dated one, whatever was asked for.
func answeredBy(host, model string) string {
	if host == openAIHost {
		return model + "-2026-09-30"
	}
	return model
}

// chatUsage has reasoning inside the completion and cached tokens inside the prompt. Mistral says less, elsewhere.
func chatUsage(t tokens, host string) (map[string]any, map[string]int) {
	output := t.candidates + t.thoughts
	usage := map[string]any{"prompt_tokens": t.prompt, "completion_tokens": output, "total_tokens": t.prompt + output}
	counts := map[string]int{
		"input_tokens": t.prompt, "output_tokens": output, "total_tokens": t.prompt + output, "cache_read_input_tokens": t.cached,
	}
	if host == mistralHost {
		usage["num_cached_tokens"] = t.cached
		return usage, counts
	}
	usage["prompt_tokens_details"] = map[string]any{"cached_tokens": t.cached, "audio_tokens": 0}
	usage["completion_tokens_details"] = map[string]any{
		"reasoning_tokens": t.thoughts, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
	}
	counts["reasoning_output_tokens"] = t.thoughts
	for _, name := range []string{"audio_input", "audio_output", "accepted_prediction_output", "rejected_prediction_output"} {
		counts[name+"_tokens"] = 0
	}
	return usage, counts
}

func (p *provider) chat(w http.ResponseWriter, r *http.Request, body []byte) {
	var request chatRequest
	c := p.open(w, r, "openai-chat", "whole")
	if err := json.Unmarshal(body, &request); err != nil {
		c.badRequest()
		return
	}
	if request.Stream {
		c.record.Operation = "stream"
	}
	if !c.compose(request.Model, request.Messages.prompt(), len(body), refuseOpenAI) {
		return
	}
	c.names("chatcmpl-"+randomHex(12), answeredBy(r.Host, request.Model))
	if request.Stream {
		// Mistral always tells, in the chunk that has the reason; OpenAI only when asked, in one of its own.
		events := chatChunks(c.answer, r.Host, request.StreamOptions.IncludeUsage)
		c.stream(c.openBody("text/event-stream; charset=utf-8"), asServerSentEvents(events), chatErrorEvent)
		return
	}
	c.whole(chatWhole(c.answer, r.Host))
}

// names sets id and model of the answer, where compose has set others.
func (c *call) names(id, model string) {
	c.answer.id, c.answer.version = id, model
	c.record.ResponseID, c.record.ResponseModel = id, model
}

func (c *call) badRequest() {
	c.record.HTTPStatus = 400
	refuseOpenAI(c, 400)
	c.p.account.addAnswer(c.record)
}

func chatFinish(a answer) string {
	switch {
	case a.orders.Blocked:
		return "content_filter"
	case a.finish == "MAX_TOKENS":
		return "length"
	}
	return "stop"
}

func chatChunks(a answer, host string, includeUsage bool) []event {
	var events []event
	isOpenAI := host == openAIHost
	add := func(choices []any, finish string, hasUsage bool) {
		chunk := map[string]any{
			"id": a.id, "object": "chat.completion.chunk", "created": created, "model": a.version, "choices": choices,
		}
		if isOpenAI {
			chunk["service_tier"], chunk["system_fingerprint"] = "default", nil
			if len(choices) > 0 {
				chunk["obfuscation"] = "xYz"
			}
			if includeUsage {
				chunk["usage"] = nil
			}
		}
		e := event{finish: finish}
		if hasUsage && !a.orders.NoUsage {
			e.usage, e.counts = chatUsage(a.tokens, host)
			chunk["usage"] = e.usage
		}
		e.text = marshal(chunk)
		events = append(events, e)
	}
	choice := func(delta map[string]any, finish any) []any {
		return []any{map[string]any{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}}
	}
	add(choice(map[string]any{"role": "assistant", "content": ""}, nil), "", false)
	for _, piece := range a.pieces {
		add(choice(map[string]any{"content": piece}, nil), "", false)
	}
	last := map[string]any{}
	if !isOpenAI {
		last["content"] = ""
	}
	add(choice(last, chatFinish(a)), chatFinish(a), !isOpenAI)
	if isOpenAI && includeUsage {
		add([]any{}, "", true)
	}
	return append(events, event{text: "[DONE]"})
}

func chatWhole(a answer, host string) (map[string]any, event) {
	message := map[string]any{"role": "assistant", "content": strings.Join(a.pieces, "")}
	choice := map[string]any{"index": 0, "message": message, "finish_reason": chatFinish(a)}
	object := map[string]any{"id": a.id, "object": "chat.completion", "created": created, "model": a.version, "choices": []any{choice}}
	if host == openAIHost {
		message["refusal"], choice["logprobs"], object["service_tier"] = nil, nil, "default"
	}
	e := event{finish: chatFinish(a)}
	if !a.orders.NoUsage {
		e.usage, e.counts = chatUsage(a.tokens, host)
		object["usage"] = e.usage
	}
	return object, e
}

// embeddings have input and nothing else; a vector's form depends on what was asked for.
func (p *provider) embeddings(w http.ResponseWriter, r *http.Request, body []byte) {
	var request struct {
		Model          string          `json:"model"`
		Input          json.RawMessage `json:"input"`
		EncodingFormat string          `json:"encoding_format"`
	}
	c := p.open(w, r, "openai-embeddings", "whole")
	if err := json.Unmarshal(body, &request); err != nil {
		c.badRequest()
		return
	}
	texts := []string{}
	if json.Unmarshal(request.Input, &texts) != nil {
		texts = []string{string(request.Input)}
	}
	if !c.compose(request.Model, strings.Join(texts, ""), len(body), refuseOpenAI) {
		return
	}
	c.names("", request.Model) // OpenAI's has no id
	vectors := []any{}
	for i := range texts {
		vectors = append(vectors, map[string]any{"object": "embedding", "index": i, "embedding": vector(request.EncodingFormat)})
	}
	object := map[string]any{"object": "list", "data": vectors, "model": request.Model}
	e := event{}
	if prompt := c.answer.tokens.prompt; !c.answer.orders.NoUsage {
		e.usage = map[string]any{"prompt_tokens": prompt, "total_tokens": prompt}
		e.counts = map[string]int{"input_tokens": prompt, "total_tokens": prompt}
		object["usage"] = e.usage
	}
	if r.Host == mistralHost {
		c.names(randomHex(16), request.Model)
		object["id"] = c.answer.id
		if e.usage != nil {
			e.usage["completion_tokens"], e.counts["output_tokens"] = 0, 0
		}
	}
	c.whole(object, e)
}

func vector(format string) any {
	values := []float32{0.25, -0.5, 0.75}
	if format != "base64" {
		return values
	}
	var raw bytes.Buffer
	must(binary.Write(&raw, binary.LittleEndian, values))
	return base64.StdEncoding.EncodeToString(raw.Bytes())
}

// created is when every answer was made, in seconds: no test depends on it.
const created = 1795785600

const chatErrorEvent = "data: {\"error\":{\"message\":\"as ordered\",\"type\":\"server_error\",\"param\":null,\"code\":\"server_error\"}}\n\n"

func openAIError(status int, message string) map[string]any {
	return map[string]any{"error": openAIErrorObject(status, message)}
}

func openAIErrorObject(status int, message string) map[string]any {
	kinds := map[int]string{
		400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
		429: "insufficient_quota",
	}
	kind, known := kinds[status]
	if !known {
		kind = "server_error"
	}
	return map[string]any{"message": message, "type": kind, "param": nil, "code": kind}
}

func refuseOpenAI(c *call, status int) {
	c.record.Error = fmt.Sprint(openAIErrorObject(status, "")["code"])
	writeJSON(c.w, status, openAIError(status, "as ordered"))
}

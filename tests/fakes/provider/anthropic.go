package main

import (
	"encoding/json"
	"net/http"
	"strings"
)

type anthropicRequest struct {
	Model    string   `json:"model"`
	Stream   bool     `json:"stream"`
	Messages messages `json:"messages"`
}

// messages are a conversation as Anthropic, OpenAI, Mistral and Bedrock write it.
type messages []struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// prompt is the last user text; content is a string or a list of blocks.
func (m messages) prompt() string {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].Role != "user" {
			continue
		}
		var text string
		if json.Unmarshal(m[i].Content, &text) == nil {
			return text
		}
		var blocks []struct {
			Text string `json:"text"`
		}
		_ = json.Unmarshal(m[i].Content, &blocks)
		for _, block := range blocks {
			text += block.Text
		}
		if text != "" {
			return text
		}
	}
	return ""
}

// anthropicUsage has the input beside the cache counts, as Anthropic reports it; thinking is inside the output.
func anthropicUsage(t tokens, output int) (map[string]any, map[string]int) {
	written := 0
	if t.cached > 0 {
		written = t.cached / 7
	}
	usage := map[string]any{
		"input_tokens": t.prompt - t.cached - written, "cache_read_input_tokens": t.cached,
		"cache_creation_input_tokens": written, "output_tokens": output,
	}
	counts := map[string]int{
		"input_tokens": t.prompt, "cache_read_input_tokens": t.cached, "cache_write_input_tokens": written, "output_tokens": output,
	}
	return usage, counts
}

func (p *provider) anthropic(w http.ResponseWriter, r *http.Request, body []byte) {
	if r.URL.Path == "/v1/messages/count_tokens" {
		writeJSON(w, 200, map[string]any{"input_tokens": 17 + len(body)/4})
		return
	}
	var request anthropicRequest
	c := p.open(w, r, "anthropic-messages", "whole")
	if err := json.Unmarshal(body, &request); err != nil {
		c.record.HTTPStatus = 400
		refuseAnthropic(c, 400)
		p.account.addAnswer(c.record)
		return
	}
	if request.Stream {
		c.record.Operation = "stream"
	}
	if !c.compose(request.Model, request.Messages.prompt(), len(body), refuseAnthropic) {
		return
	}
	c.answer.id = "msg_" + randomHex(12)
	c.record.ResponseID = c.answer.id
	w.Header().Set("request-id", "req_"+randomHex(12))
	if request.Stream {
		c.stream(c.openBody("text/event-stream; charset=utf-8"), asServerSentEvents(anthropicEvents(c.answer)), anthropicErrorEvent)
		return
	}
	object, e := anthropicWhole(c.answer)
	c.whole(object, e)
}

const anthropicErrorEvent = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"

func anthropicStop(a answer) string {
	switch {
	case a.orders.Blocked:
		return "refusal"
	case a.finish == "MAX_TOKENS":
		return "max_tokens"
	}
	return "end_turn"
}

func anthropicEvents(a answer) []event {
	var events []event
	add := func(object map[string]any) *event {
		events = append(events, event{kind: object["type"].(string), text: marshal(object)})
		return &events[len(events)-1]
	}
	output := a.tokens.candidates + a.tokens.thoughts
	message := map[string]any{"id": a.id, "type": "message", "role": "assistant", "model": a.version, "content": []any{}, "stop_reason": nil, "stop_sequence": nil}
	first, firstCounts := anthropicUsage(a.tokens, 2)
	if !a.orders.NoUsage {
		message["usage"] = first
	}
	start := add(map[string]any{"type": "message_start", "message": message})
	if !a.orders.NoUsage {
		start.usage, start.counts = first, firstCounts
	}
	add(map[string]any{"type": "ping"})
	block := 0
	if len(a.thoughts) > 0 {
		add(map[string]any{"type": "content_block_start", "index": block, "content_block": map[string]any{"type": "thinking", "thinking": "", "signature": ""}})
		for _, piece := range a.thoughts {
			add(map[string]any{"type": "content_block_delta", "index": block, "delta": map[string]any{"type": "thinking_delta", "thinking": piece}})
		}
		add(map[string]any{"type": "content_block_stop", "index": block})
		block++
	}
	add(map[string]any{"type": "content_block_start", "index": block, "content_block": map[string]any{"type": "text", "text": ""}})
	for _, piece := range a.pieces {
		add(map[string]any{"type": "content_block_delta", "index": block, "delta": map[string]any{"type": "text_delta", "text": piece}})
	}
	add(map[string]any{"type": "content_block_stop", "index": block})
	delta := map[string]any{"type": "message_delta", "delta": map[string]any{"stop_reason": anthropicStop(a), "stop_sequence": nil}}
	last, lastCounts := anthropicUsage(a.tokens, output)
	if !a.orders.NoUsage {
		delta["usage"] = last
	}
	end := add(delta)
	end.finish = anthropicStop(a)
	if !a.orders.NoUsage {
		end.usage, end.counts = last, lastCounts
	}
	add(map[string]any{"type": "message_stop"})
	return events
}

func anthropicWhole(a answer) (map[string]any, event) {
	content := []any{}
	if len(a.thoughts) > 0 {
		content = append(content, map[string]any{"type": "thinking", "thinking": strings.Join(a.thoughts, ""), "signature": "c2ln"})
	}
	content = append(content, map[string]any{"type": "text", "text": strings.Join(a.pieces, "")})
	object := map[string]any{
		"id": a.id, "type": "message", "role": "assistant", "model": a.version, "content": content,
		"stop_reason": anthropicStop(a), "stop_sequence": nil,
	}
	e := event{finish: anthropicStop(a)}
	if !a.orders.NoUsage {
		e.usage, e.counts = anthropicUsage(a.tokens, a.tokens.candidates+a.tokens.thoughts)
		object["usage"] = e.usage
	}
	return object, e
}

func refuseAnthropic(c *call, status int) {
	kinds := map[int]string{
		400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error",
		500: "api_error", 529: "overloaded_error",
	}
	kind, known := kinds[status]
	if !known {
		kind = "api_error"
	}
	c.record.Error = kind
	writeJSON(c.w, status, map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": "as ordered"}})
}

package main

import (
	"encoding/json"
	"net/http"
)

// responsesRequest is the body of POST /v1/responses, or a `response.create` of the WebSocket.
type responsesRequest struct {
	Type     string          `json:"type"`
	Model    string          `json:"model"`
	Stream   bool            `json:"stream"`
	Generate *bool           `json:"generate"`
	Input    json.RawMessage `json:"input"`
}

// prompt is the last user text; input is a string, or a list of items, some of which are messages.
func (r responsesRequest) prompt() string {
	var text string
	if json.Unmarshal(r.Input, &text) == nil {
		return text
	}
	var items messages
	_ = json.Unmarshal(r.Input, &items)
	return items.prompt()
}

func responsesUsage(t tokens) (map[string]any, map[string]int) {
	output := t.candidates + t.thoughts
	usage := map[string]any{
		"input_tokens": t.prompt, "input_tokens_details": map[string]any{"cached_tokens": t.cached},
		"output_tokens": output, "output_tokens_details": map[string]any{"reasoning_tokens": t.thoughts},
		"total_tokens": t.prompt + output,
	}
	counts := map[string]int{
		"input_tokens": t.prompt, "cache_read_input_tokens": t.cached, "output_tokens": output,
		"reasoning_output_tokens": t.thoughts, "total_tokens": t.prompt + output,
	}
	return usage, counts
}

func (p *provider) responses(w http.ResponseWriter, r *http.Request, body []byte) {
	var request responsesRequest
	c := p.open(w, r, "openai-responses", "whole")
	if err := json.Unmarshal(body, &request); err != nil {
		c.badRequest()
		return
	}
	if request.Stream {
		c.record.Operation = "stream"
	}
	if !c.compose(request.Model, request.prompt(), len(body), refuseOpenAI) {
		return
	}
	c.names("resp_"+randomHex(24), answeredBy(r.Host, request.Model))
	if request.Stream {
		c.stream(c.openBody("text/event-stream; charset=utf-8"), asServerSentEvents(responsesEvents(c.answer)), "event: error\ndata: "+responsesErrorEvent+"\n\n")
		return
	}
	object, e := responsesEnd(c.answer)
	c.whole(object, e)
}

const responsesErrorEvent = `{"type":"error","code":"server_error","message":"as ordered","param":null,"sequence_number":99}`

// responseObject is a response in the state that its events tell.
func responseObject(a answer, status string, output []any) map[string]any {
	return map[string]any{
		"id": a.id, "object": "response", "created_at": created, "status": status, "model": a.version, "output": output,
		"error": nil, "incomplete_details": nil, "instructions": nil, "metadata": map[string]any{}, "parallel_tool_calls": true,
		"temperature": 1.0, "tool_choice": "auto", "tools": []any{}, "top_p": 1.0, "service_tier": "auto", "usage": nil,
	}
}

func responsesOutput(a answer) (reasoning []any, message map[string]any) {
	if len(a.thoughts) > 0 {
		reasoning = []any{map[string]any{"type": "reasoning", "id": "rs_" + a.id[5:], "summary": []any{}}}
	}
	text := ""
	for _, piece := range a.pieces {
		text += piece
	}
	part := map[string]any{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": []any{}}
	message = map[string]any{
		"type": "message", "id": "msg_" + a.id[5:], "status": "completed", "role": "assistant", "content": []any{part},
	}
	return reasoning, message
}

// responsesEnd is the object of an answer that is over.
func responsesEnd(a answer) (map[string]any, event) {
	reasoning, message := responsesOutput(a)
	object := responseObject(a, "completed", append(reasoning, message))
	object["service_tier"] = "default"
	e := event{kind: "response.completed", finish: "completed"}
	if reason := incompleteFor(a); reason != "" {
		object["status"], object["incomplete_details"] = "incomplete", map[string]any{"reason": reason}
		e = event{kind: "response.incomplete", finish: reason}
	}
	if !a.orders.NoUsage {
		e.usage, e.counts = responsesUsage(a.tokens)
		object["usage"] = e.usage
	}
	return object, e
}

func incompleteFor(a answer) string {
	switch {
	case a.orders.Blocked:
		return "content_filter"
	case a.finish == "MAX_TOKENS":
		return "max_output_tokens"
	}
	return ""
}

// responsesEvents are the events of a stream, which are also the messages of the WebSocket.
func responsesEvents(a answer) []event {
	var events []event
	add := func(e event, members map[string]any) {
		members["type"], members["sequence_number"] = e.kind, len(events)
		e.text = marshal(members)
		events = append(events, e)
	}
	say := func(kind string, members map[string]any) { add(event{kind: kind}, members) }
	say("response.created", map[string]any{"response": responseObject(a, "in_progress", []any{})})
	say("response.in_progress", map[string]any{"response": responseObject(a, "in_progress", []any{})})
	reasoning, message := responsesOutput(a)
	for i, item := range reasoning {
		say("response.output_item.added", map[string]any{"output_index": i, "item": item})
		say("response.output_item.done", map[string]any{"output_index": i, "item": item})
	}
	at := func(members map[string]any) map[string]any {
		members["output_index"], members["content_index"], members["item_id"] = len(reasoning), 0, message["id"]
		return members
	}
	part := message["content"].([]any)[0].(map[string]any)
	begun := map[string]any{"type": "message", "id": message["id"], "status": "in_progress", "role": "assistant", "content": []any{}}
	say("response.output_item.added", map[string]any{"output_index": len(reasoning), "item": begun})
	say("response.content_part.added", at(map[string]any{"part": map[string]any{"type": "output_text", "text": "", "annotations": []any{}}}))
	for _, piece := range a.pieces {
		say("response.output_text.delta", at(map[string]any{"delta": piece, "logprobs": []any{}, "obfuscation": "xYz"}))
	}
	say("response.output_text.done", at(map[string]any{"text": part["text"], "logprobs": []any{}}))
	say("response.content_part.done", at(map[string]any{"part": part}))
	say("response.output_item.done", map[string]any{"output_index": len(reasoning), "item": message})
	object, last := responsesEnd(a)
	add(last, map[string]any{"response": object})
	return events
}

// responsesSocket serves the WebSocket form: one answer after the other, each with its own place in the account.
func (p *provider) responsesSocket(w http.ResponseWriter, r *http.Request) {
	if status := p.orders.refusalOfSockets(); status != 0 {
		writeJSON(w, status, openAIError(status, "no WebSocket here"))
		return
	}
	s, err := openSocket(w, r, p.options.chunks == "awkward")
	if err != nil {
		return
	}
	defer s.close()
	for {
		text, err := s.read()
		if err != nil {
			return
		}
		p.respond(w, r, s, text)
	}
}

func (p *provider) respond(w http.ResponseWriter, r *http.Request, s *socket, text []byte) {
	var request responsesRequest
	c := p.open(w, r, "openai-responses-ws", "socket")
	if json.Unmarshal(text, &request) != nil || request.Type != "response.create" {
		s.send(marshal(map[string]any{"type": "error", "status": 400, "error": openAIErrorObject(400, "no response.create")}))
		return
	}
	refuse := func(c *call, status int) {
		object := openAIErrorObject(status, "as ordered")
		c.record.Error, _ = object["code"].(string)
		s.send(marshal(map[string]any{"type": "error", "status": status, "error": object}))
	}
	if request.Generate != nil && !*request.Generate {
		p.account.addRequest(r, "warm-up")
		p.warmUp(r, s, request)
		return
	}
	p.account.addRequest(r, request.Type)
	if !c.compose(request.Model, request.prompt(), len(text), refuse) {
		return
	}
	c.names("resp_"+randomHex(24), answeredBy(r.Host, request.Model))
	c.record.Coded = s.extension != nil
	c.stream(s, responsesEvents(c.answer), responsesErrorEvent)
}

// warmUp answers a request that generates nothing: it costs nothing and has no place in the account.
func (p *provider) warmUp(r *http.Request, s *socket, request responsesRequest) {
	a := answer{id: "resp_" + randomHex(24), version: answeredBy(r.Host, request.Model)}
	s.send(marshal(map[string]any{"type": "response.created", "response": responseObject(a, "in_progress", []any{})}))
	object := responseObject(a, "completed", []any{})
	object["usage"], _ = responsesUsage(tokens{})
	s.send(marshal(map[string]any{"type": "response.completed", "response": object}))
}

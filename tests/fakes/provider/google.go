package main

import (
	"encoding/json"
	"net/http"
	"strings"
)

// generateRequest is what is read of a Gemini request.
type generateRequest struct {
	Contents []struct {
		Role  string `json:"role"`
		Parts []struct {
			Text string `json:"text"`
		} `json:"parts"`
	} `json:"contents"`
	GenerationConfig struct {
		ResponseMimeType   string         `json:"responseMimeType"`
		ResponseSchema     map[string]any `json:"responseSchema"`
		ResponseJSONSchema map[string]any `json:"responseJsonSchema"`
	} `json:"generationConfig"`
}

// prompt is the last user text.
func (g generateRequest) prompt() string {
	for i := len(g.Contents) - 1; i >= 0; i-- {
		if g.Contents[i].Role == "model" {
			continue
		}
		text := ""
		for _, part := range g.Contents[i].Parts {
			text += part.Text
		}
		if text != "" {
			return text
		}
	}
	return ""
}

// googleUsage is a usageMetadata object after some of the answer. Zeros are left out, as protobuf JSON does.
func googleUsage(t tokens, candidates, thoughts int, last bool) (map[string]any, map[string]int) {
	usage := map[string]any{"promptTokenCount": t.prompt, "totalTokenCount": t.prompt + candidates + thoughts}
	counts := map[string]int{
		"input_tokens": t.prompt, "output_tokens": candidates + thoughts, "total_tokens": t.prompt + candidates + thoughts,
	}
	if candidates > 0 {
		usage["candidatesTokenCount"] = candidates
	}
	if thoughts > 0 {
		usage["thoughtsTokenCount"] = thoughts
		counts["reasoning_output_tokens"] = thoughts
	}
	if last && t.cached > 0 {
		usage["cachedContentTokenCount"] = t.cached
		counts["cache_read_input_tokens"] = t.cached
	}
	return usage, counts
}

// googleAnswers are the GenerateContentResponse objects of a stream, with what is in them.
func googleAnswers(a answer) []event {
	var events []event
	add := func(parts []any, finish string, candidates, thoughts int, last bool) {
		candidate := map[string]any{"content": map[string]any{"role": "model", "parts": parts}}
		if finish != "" {
			candidate["finishReason"] = finish
		}
		e := event{finish: finish}
		object := map[string]any{"candidates": []any{candidate}, "modelVersion": a.version, "responseId": a.id}
		if !a.orders.NoUsage {
			e.usage, e.counts = googleUsage(a.tokens, candidates, thoughts, last)
			object["usageMetadata"] = e.usage
		}
		e.text = marshal(object)
		events = append(events, e)
	}
	if a.orders.Blocked {
		usage, counts := googleUsage(a.tokens, 0, 0, false)
		object := map[string]any{"promptFeedback": map[string]any{"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage, "modelVersion": a.version, "responseId": a.id}
		return []event{{text: marshal(object), usage: usage, counts: counts, finish: "blocked"}}
	}
	for i, piece := range a.thoughts {
		add([]any{map[string]any{"thought": true, "text": piece}}, "", 0, a.tokens.thoughts*(i+1)/(len(a.thoughts)+1), false)
	}
	for i, piece := range a.pieces {
		add([]any{map[string]any{"text": piece}}, "", a.tokens.candidates*(i+1)/(len(a.pieces)+1), a.tokens.thoughts, false)
	}
	add([]any{map[string]any{"text": ""}}, a.finish, a.tokens.candidates, a.tokens.thoughts, true)
	return events
}

// googleWhole is the one GenerateContentResponse of an answer that is no stream.
func googleWhole(a answer) (map[string]any, event) {
	if a.orders.Blocked {
		e := googleAnswers(a)[0]
		var object map[string]any
		must(json.Unmarshal([]byte(e.text), &object))
		return object, e
	}
	parts := []any{}
	if len(a.thoughts) > 0 {
		parts = append(parts, map[string]any{"thought": true, "text": strings.Join(a.thoughts, "")})
	}
	parts = append(parts, map[string]any{"text": strings.Join(a.pieces, "")})
	object := map[string]any{
		"candidates":   []any{map[string]any{"content": map[string]any{"role": "model", "parts": parts}, "finishReason": a.finish, "index": 0}},
		"modelVersion": a.version, "responseId": a.id,
	}
	e := event{finish: a.finish}
	if !a.orders.NoUsage {
		e.usage, e.counts = googleUsage(a.tokens, a.tokens.candidates, a.tokens.thoughts, true)
		object["usageMetadata"] = e.usage
	}
	return object, e
}

// googleStream puts the objects on the wire: server-sent events with CRLF, or one JSON array.
func (c *call) googleStream(wrap func(string) string) {
	events := googleAnswers(c.answer)
	contentType := "text/event-stream"
	sse := c.r.URL.Query().Get("alt") == "sse"
	if !sse {
		contentType = "application/json; charset=UTF-8"
	}
	for i := range events {
		text := wrap(events[i].text)
		switch {
		case sse:
			text = "data: " + text + "\r\n\r\n"
		case i == 0 && len(events) == 1:
			text = "[" + text + "]"
		case i == 0:
			text = "[" + text
		case i == len(events)-1:
			text = ",\r\n" + text + "]"
		default:
			text = ",\r\n" + text
		}
		events[i].text = text
	}
	c.stream(c.openBody(contentType), events, googleError(500, "", c.answer.model))
}

// googleError is an error body, pretty-printed as the real one is.
func googleError(status int, reason, model string) string {
	word, message, details := googleErrorWords(status, reason, model)
	object := map[string]any{"code": status, "message": message, "status": word}
	if details != nil {
		object["details"] = details
	}
	text, err := json.MarshalIndent(map[string]any{"error": object}, "", "  ")
	must(err)
	return string(text) + "\n"
}

func googleErrorWords(status int, reason, model string) (word, message string, details []any) {
	info := func(reason string, metadata map[string]string) map[string]any {
		return map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "cloudcode-pa.googleapis.com", "metadata": metadata}
	}
	switch status {
	case 400:
		if reason == "LOCATION" {
			return "FAILED_PRECONDITION", "User location is not supported for the API use.", nil
		}
		return "INVALID_ARGUMENT", "Request contains an invalid argument.", nil
	case 401:
		return "UNAUTHENTICATED", "Request had invalid authentication credentials.", nil
	case 403:
		if reason == "" {
			reason = "TOS_VIOLATION"
		}
		metadata := map[string]string{"appeal_url": "https://support.google.invalid/appeal"}
		if reason == "VALIDATION_REQUIRED" {
			metadata = map[string]string{"validation_url": "https://accounts.google.invalid/validate"}
		}
		return "PERMISSION_DENIED", "The caller does not have permission.", []any{info(reason, metadata)}
	case 429:
		if reason == "BARE" {
			return "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).", nil
		}
		return "RESOURCE_EXHAUSTED", "Individual quota reached. Resets in 47h55m14s.", []any{info("QUOTA_EXHAUSTED", map[string]string{"quotaResetDelay": "172514s"})}
	case 503:
		return "UNAVAILABLE", "No capacity available for model " + model + " on the server", []any{info("MODEL_CAPACITY_EXHAUSTED", map[string]string{"model": model})}
	}
	return "INTERNAL", "Internal error encountered.", nil
}

// refuseGoogle answers with an error: plain JSON under whatever content type the method has.
func refuseGoogle(c *call, status int) {
	reason := c.answer.orders.Reason
	word, _, _ := googleErrorWords(status, reason, c.answer.model)
	c.record.Error = word
	text := googleError(status, reason, c.answer.model)
	contentType := "application/json; charset=UTF-8"
	if c.record.Dialect == "google-cloudcode" && c.record.Operation == "stream" {
		contentType = "text/event-stream" // as the real one does
	}
	c.w.Header().Set("Content-Type", contentType)
	if status == 401 {
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="https://accounts.google.com/", error="invalid_token"`)
	}
	c.w.WriteHeader(status)
	_, _ = c.w.Write([]byte(text))
}

// gemini serves /v1beta/models/{model}:{method}.
func (p *provider) gemini(w http.ResponseWriter, r *http.Request, body []byte) {
	_, name, _ := strings.Cut(r.URL.Path[1:], "/models")
	model, method, _ := strings.Cut(strings.TrimPrefix(name, "/"), ":")
	var request generateRequest
	if len(body) > 0 {
		if err := json.Unmarshal(body, &request); err != nil {
			writeJSON(w, 400, json.RawMessage(googleError(400, "", model)))
			return
		}
	}
	switch method {
	case "streamGenerateContent":
		c := p.open(w, r, "google-gemini", "stream")
		if c.compose(model, request.prompt(), len(body), refuseGoogle) {
			c.answer.obey(request)
			c.googleStream(func(text string) string { return text })
		}
	case "generateContent":
		c := p.open(w, r, "google-gemini", "whole")
		if c.compose(model, request.prompt(), len(body), refuseGoogle) {
			c.answer.obey(request)
			c.whole(googleWhole(c.answer))
		}
	case "countTokens":
		writeJSON(w, 200, map[string]any{"totalTokens": 17 + len(body)/4})
	case "":
		writeJSON(w, 200, map[string]any{"models": geminiModels()})
	default:
		writeJSON(w, 404, json.RawMessage(googleError(404, "", model)))
	}
}

// obey answers with JSON of the wanted schema where one is asked for: agents route and check themselves that way.
func (a *answer) obey(request generateRequest) {
	if request.GenerationConfig.ResponseMimeType != "application/json" || a.orders.Say != "" {
		return
	}
	schema := request.GenerationConfig.ResponseJSONSchema
	if schema == nil {
		schema = request.GenerationConfig.ResponseSchema
	}
	a.pieces = cut(marshal(instanceOf(schema)), len(a.pieces))
}

// instanceOf makes the smallest value that a JSON schema allows.
func instanceOf(schema map[string]any) any {
	if choices, ok := schema["enum"].([]any); ok && len(choices) > 0 {
		return choices[0]
	}
	kind, _ := schema["type"].(string)
	switch strings.ToLower(kind) {
	case "string":
		return "fine"
	case "number", "integer":
		return 1
	case "boolean":
		return false
	case "array":
		return []any{}
	}
	object := map[string]any{}
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		if inner, ok := property.(map[string]any); ok {
			object[name] = instanceOf(inner)
		}
	}
	return object
}

func geminiModels() []any {
	models := []any{}
	for _, name := range []string{"gemini-3-flash", "gemini-3.1-pro-preview", "gemini-2.5-flash"} {
		models = append(models, map[string]any{"name": "models/" + name, "displayName": name, "supportedGenerationMethods": []string{"generateContent", "countTokens"}})
	}
	return models
}

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"strings"
)

// bedrock serves /model/{model}/{verb}: Converse in its own format, InvokeModel in Anthropic's.
func (p *provider) bedrock(w http.ResponseWriter, r *http.Request, body []byte) {
	slash := strings.LastIndex(r.URL.Path, "/")
	model, verb := strings.TrimPrefix(r.URL.Path[:slash], "/model/"), r.URL.Path[slash+1:]
	dialect := map[string]string{
		"converse": "bedrock-converse", "converse-stream": "bedrock-converse",
		"invoke": "bedrock-invoke", "invoke-with-response-stream": "bedrock-invoke",
	}[verb]
	if dialect == "" {
		writeJSON(w, 404, map[string]any{"message": "no such path"})
		return
	}
	c := p.open(w, r, dialect, "whole")
	isStream := strings.HasSuffix(verb, "-stream")
	if isStream {
		c.record.Operation = "stream"
	}
	requestID := randomHex(4) + "-" + randomHex(2) + "-" + randomHex(2) + "-" + randomHex(2) + "-" + randomHex(6)
	w.Header().Set("x-amzn-RequestId", requestID)
	var request struct {
		Messages messages `json:"messages"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		c.record.HTTPStatus = 400
		refuseBedrock(c, 400)
		p.account.addAnswer(c.record)
		return
	}
	if !c.compose(model, request.Messages.prompt(), len(body), refuseBedrock) {
		return
	}
	switch {
	case dialect == "bedrock-converse" && isStream:
		c.names(requestID, "") // such an answer names neither; the id is that of the request
		c.stream(c.openBody("application/vnd.amazon.eventstream"), converseMessages(c.answer), bedrockErrorMessage)
	case dialect == "bedrock-converse":
		c.names(requestID, "")
		c.whole(converseWhole(c.answer))
	case isStream:
		c.names("msg_bdrk_"+randomHex(12), nakedModel(model))
		w.Header().Set("X-Amzn-Bedrock-Content-Type", "application/json")
		c.stream(c.openBody("application/vnd.amazon.eventstream"), invokeMessages(c.answer), bedrockErrorMessage)
	default:
		c.names("msg_bdrk_"+randomHex(12), nakedModel(model))
		object, e := anthropicWhole(c.answer)
		if e.usage != nil {
			w.Header().Set("X-Amzn-Bedrock-Input-Token-Count", fmt.Sprint(e.usage["input_tokens"]))
			w.Header().Set("X-Amzn-Bedrock-Output-Token-Count", fmt.Sprint(e.usage["output_tokens"]))
		}
		c.whole(object, e)
	}
}

// nakedModel is the vendor's own name: "us.anthropic.claude-x-v1:0" is claude-x to itself.
func nakedModel(model string) string {
	model = model[strings.LastIndex(model, ".")+1:]
	if version := strings.LastIndex(model, "-v"); version > 0 {
		model = model[:version]
	}
	return model
}

// converseUsage has the cache counts beside the input, and twice.
func converseUsage(t tokens) (map[string]any, map[string]int) {
	output, written := t.candidates+t.thoughts, t.cached/7
	usage := map[string]any{
		"inputTokens": t.prompt - t.cached - written, "outputTokens": output, "totalTokens": t.prompt + output,
		"cacheReadInputTokens": t.cached, "cacheReadInputTokenCount": t.cached,
		"cacheWriteInputTokens": written, "cacheWriteInputTokenCount": written,
	}
	counts := map[string]int{
		"input_tokens": t.prompt, "output_tokens": output, "total_tokens": t.prompt + output,
		"cache_read_input_tokens": t.cached, "cache_write_input_tokens": written,
	}
	return usage, counts
}

func converseStop(a answer) string {
	if a.orders.Blocked {
		return "guardrail_intervened"
	}
	return anthropicStop(a)
}

func converseWhole(a answer) (map[string]any, event) {
	content := []any{map[string]any{"text": strings.Join(a.pieces, "")}}
	object := map[string]any{
		"output":     map[string]any{"message": map[string]any{"role": "assistant", "content": content}},
		"stopReason": converseStop(a), "metrics": map[string]any{"latencyMs": 412},
	}
	e := event{finish: converseStop(a)}
	if !a.orders.NoUsage {
		e.usage, e.counts = converseUsage(a.tokens)
		object["usage"] = e.usage
	}
	return object, e
}

func converseMessages(a answer) []event {
	var events []event
	add := func(kind string, e event, payload map[string]any) {
		e.text = eventMessage("event", kind, marshal(payload))
		events = append(events, e)
	}
	add("messageStart", event{}, map[string]any{"role": "assistant", "p": "abc"})
	for _, piece := range a.pieces {
		add("contentBlockDelta", event{}, map[string]any{"contentBlockIndex": 0, "delta": map[string]any{"text": piece}, "p": "abcdef"})
	}
	add("contentBlockStop", event{}, map[string]any{"contentBlockIndex": 0})
	add("messageStop", event{finish: converseStop(a)}, map[string]any{"stopReason": converseStop(a)})
	metadata, last := map[string]any{"metrics": map[string]any{"latencyMs": 412}}, event{}
	if !a.orders.NoUsage {
		last.usage, last.counts = converseUsage(a.tokens)
		metadata["usage"] = last.usage
	}
	add("metadata", last, metadata)
	return events
}

// invokeMessages are Anthropic's events, each inside a chunk; the last one has the metrics, too.
func invokeMessages(a answer) []event {
	events := anthropicEvents(a)
	for i, e := range events {
		text := e.text
		if i == len(events)-1 && !a.orders.NoUsage {
			usage, _ := anthropicUsage(a.tokens, a.tokens.candidates+a.tokens.thoughts)
			metrics := map[string]any{
				"inputTokenCount": usage["input_tokens"], "outputTokenCount": usage["output_tokens"], "invocationLatency": 900,
				"firstByteLatency": 412, "cacheReadInputTokenCount": usage["cache_read_input_tokens"],
				"cacheWriteInputTokenCount": usage["cache_creation_input_tokens"],
			}
			text = strings.TrimSuffix(text, "}") + `,"amazon-bedrock-invocationMetrics":` + marshal(metrics) + "}"
		}
		payload := map[string]any{"bytes": base64.StdEncoding.EncodeToString([]byte(text)), "p": "abcdefgh"}
		events[i].text = eventMessage("event", "chunk", marshal(payload))
	}
	return events
}

var bedrockErrorMessage = eventMessage("exception", "modelStreamErrorException", `{"message":"as ordered","originalStatusCode":500}`)

// eventMessage is one message of an AWS event stream: lengths, their sum, headers of the type string, payload, sum of it all.
func eventMessage(messageType, kind, payload string) string {
	var headers bytes.Buffer
	for _, header := range [][2]string{
		{":" + messageType + "-type", kind}, {":content-type", "application/json"}, {":message-type", messageType},
	} {
		headers.WriteByte(byte(len(header[0])))
		headers.WriteString(header[0])
		headers.WriteByte(7)
		must(binary.Write(&headers, binary.BigEndian, uint16(len(header[1]))))
		headers.WriteString(header[1])
	}
	message := binary.BigEndian.AppendUint32(nil, uint32(16+headers.Len()+len(payload)))
	message = binary.BigEndian.AppendUint32(message, uint32(headers.Len()))
	message = binary.BigEndian.AppendUint32(message, crc32.ChecksumIEEE(message))
	message = append(append(message, headers.Bytes()...), payload...)
	return string(binary.BigEndian.AppendUint32(message, crc32.ChecksumIEEE(message)))
}

func refuseBedrock(c *call, status int) {
	kinds := map[int]string{
		400: "ValidationException", 403: "AccessDeniedException", 429: "ThrottlingException", 503: "ServiceUnavailableException",
	}
	kind, known := kinds[status]
	if !known {
		kind = "InternalServerException"
	}
	c.record.Error = kind
	c.w.Header().Set("x-amzn-ErrorType", kind)
	writeJSON(c.w, status, map[string]any{"message": "as ordered"})
}

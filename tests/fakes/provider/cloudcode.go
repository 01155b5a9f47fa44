package main

import (
	"encoding/json"
	"net/http"
	"strings"
)

// cloudCodeRequest is what is read of a v1internal model call.
type cloudCodeRequest struct {
	Model     string          `json:"model"`
	RequestID string          `json:"requestId"`
	Request   generateRequest `json:"request"`
}

// catalogueModel is one row of fetchAvailableModels.
type catalogueModel struct {
	key, enum, name string
	recommended     bool
}

var catalogue = []catalogueModel{
	{"gemini-3-flash", "MODEL_PLACEHOLDER_M18", "Gemini 3 Flash", true},
	{"gemini-3.1-pro-high", "MODEL_PLACEHOLDER_M37", "Gemini 3.1 Pro (High)", true},
	{"claude-sonnet-4-6-thinking", "MODEL_PLACEHOLDER_M35", "Claude Sonnet 4.6 (Thinking)", false},
	{"gpt-oss-120b-medium", "MODEL_OPENAI_GPT_OSS_120B_MEDIUM", "GPT-OSS 120B (Medium)", false},
	{"gemini-3.1-flash-lite", "MODEL_PLACEHOLDER_M50", "Gemini 3.1 Flash Lite", false},
}

// cloudCode serves /v1internal:{method} and the /v1internal/ paths.
func (p *provider) cloudCode(w http.ResponseWriter, r *http.Request, body []byte) {
	method := strings.TrimLeft(strings.TrimPrefix(r.URL.Path, "/v1internal"), ":/")
	switch method {
	case "streamGenerateContent", "generateContent":
		p.cloudCodeModel(w, r, body, method)
	case "loadCodeAssist":
		writeJSON(w, 200, map[string]any{
			"currentTier":             map[string]any{"id": "standard-tier", "name": "Antigravity"},
			"allowedTiers":            []any{map[string]any{"id": "standard-tier", "isDefault": true}},
			"cloudaicompanionProject": "aicode-consumers", "paidTier": map[string]any{"id": "g1-pro-tier", "name": "Google AI Pro"},
		})
	case "fetchUserInfo":
		writeJSON(w, 200, map[string]any{"userSettings": map[string]any{"telemetryEnabled": false}, "regionCode": "DE"})
	case "fetchAvailableModels":
		writeJSON(w, 200, availableModels())
	case "countTokens":
		writeJSON(w, 200, map[string]any{"totalTokens": 17 + len(body)/4})
	case "onboardUser":
		writeJSON(w, 200, map[string]any{"done": true, "response": map[string]any{"cloudaicompanionProject": map[string]any{"id": "aicode-consumers"}}})
	case "fetchAdminControls", "listExperiments", "recordCodeAssistMetrics", "recordTrajectoryAnalytics", "writeTrajectoryAcls",
		"retrieveUserQuota", "retrieveUserQuotaSummary", "cascadeNuxes", "webDocsOptions", "agentPlugins", "setUserSettings":
		writeJSON(w, 200, map[string]any{})
	default:
		writeJSON(w, 404, json.RawMessage(googleError(404, "", "")))
	}
}

func (p *provider) cloudCodeModel(w http.ResponseWriter, r *http.Request, body []byte, method string) {
	operation := "stream"
	if method == "generateContent" {
		operation = "whole"
	}
	c := p.open(w, r, "google-cloudcode", operation)
	var request cloudCodeRequest
	if err := json.Unmarshal(body, &request); err != nil {
		c.record.HTTPStatus = 400
		refuseGoogle(c, 400)
		p.account.addAnswer(c.record)
		return
	}
	c.record.RequestID = request.RequestID
	c.record.ConversationID = conversationOf(request.RequestID)
	if !c.compose(request.Model, request.Request.prompt(), len(body), refuseGoogle) {
		return
	}
	c.answer.obey(request.Request)
	c.record.TraceID = c.answer.trace
	w.Header().Set("x-cloudaicompanion-trace-id", c.answer.trace)
	w.Header().Set("server", "ESF")
	w.Header().Set("server-timing", "gfet4t7; dur=412")
	wrap := func(inner string) string {
		return `{"response":` + inner + `,"traceId":"` + c.answer.trace + `","metadata":{}}`
	}
	if operation == "stream" {
		c.googleStream(wrap)
		return
	}
	object, e := googleWhole(c.answer)
	c.whole(json.RawMessage(wrap(marshal(object))), e)
}

// conversationOf reads "agent/<conversation>/<ms>/<trajectory>/<step>".
func conversationOf(requestID string) string {
	parts := strings.Split(requestID, "/")
	if len(parts) < 5 {
		return ""
	}
	return parts[1]
}

func availableModels() map[string]any {
	models := map[string]any{}
	for _, m := range catalogue {
		row := map[string]any{
			"model": m.enum, "displayName": m.name, "supportsThinking": true, "thinkingBudget": -1,
			"quotaInfo": map[string]any{"remainingFraction": 1, "resetTime": "2027-01-01T00:00:00Z"},
		}
		if m.recommended {
			row["recommended"] = true
		}
		models[m.key] = row
	}
	return map[string]any{
		"models": models, "defaultAgentModelId": "gemini-3-flash", "commandModelIds": []string{"gemini-3-flash"},
		"tabModelIds": []string{"gemini-3.1-flash-lite"}, "commitMessageModelIds": []string{"gemini-3.1-flash-lite"},
	}
}

package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// answer is what one model call will be told, before any wire format.
type answer struct {
	orders    orders
	model     string
	version   string // the model that says it answered
	id, trace string
	thoughts  []string // pieces of thinking, sent first
	pieces    []string // pieces of text
	finish    string   // STOP, MAX_TOKENS
	tokens    tokens
}

// tokens are the final counts. They depend on the sizes of the request and the answer and on nothing else, so that a
// count that was mixed up with another one is seen.
type tokens struct {
	prompt, cached, candidates, thoughts int
}

// compose decides the whole answer to a prompt; requestBytes is the size of the request's body.
func compose(model, prompt string, requestBytes int, o orders) answer {
	a := answer{orders: o, model: model, version: model, id: responseID(model), trace: randomHex(8), finish: "STOP"}
	if o.MaxTokens {
		a.finish = "MAX_TOKENS"
	}
	text := o.Say
	if text == "" {
		text = "You said “" + orderPattern.ReplaceAllString(prompt, "") + "”. Tokens are counted where they cross the wire: naïve clients add, the careful replace. ✓"
	}
	events := o.Events
	if events <= 0 {
		events = 4
	}
	a.pieces = cut(text, events)
	thoughts := 11 + len(text)%37
	if o.Thoughts != nil {
		thoughts = *o.Thoughts
	}
	if thoughts > 0 {
		a.thoughts = []string{"Weighing the question. ", "Choosing the words."}
	}
	a.tokens = tokens{
		prompt:     17 + requestBytes/4,
		candidates: 3 + utf8.RuneCountInString(text)/4,
		thoughts:   thoughts,
	}
	if a.tokens.prompt > 64 {
		a.tokens.cached = a.tokens.prompt * 3 / 5
	}
	return a
}

// cut divides a text into n pieces of whole characters, empty ones where it is too short.
func cut(text string, n int) []string {
	runes := []rune(text)
	pieces := make([]string, 0, n)
	for i := 0; i < n; i++ {
		pieces = append(pieces, string(runes[len(runes)*i/n:len(runes)*(i+1)/n]))
	}
	return pieces
}

func responseID(model string) string {
	if strings.HasPrefix(model, "claude") {
		return "msg_vrtx_" + randomHex(12)
	}
	raw := make([]byte, 15)
	_, err := rand.Read(raw)
	must(err)
	return base64.RawURLEncoding.EncodeToString(raw)
}

func randomHex(n int) string {
	raw := make([]byte, n)
	_, err := rand.Read(raw)
	must(err)
	return hex.EncodeToString(raw)
}

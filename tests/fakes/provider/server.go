package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
)

// provider is the stand-in: what was asked of it by flags, its account, and the orders it was given.
type provider struct {
	options options
	account *account
	orders  *orderBook
}

// call is one model call on its way.
type call struct {
	p      *provider
	w      http.ResponseWriter
	r      *http.Request
	record answerRecord
	answer answer
}

func (p *provider) routes() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.account.addRequest(r, r.Method)
		request, err := io.ReadAll(io.LimitReader(r.Body, 256<<20))
		if err != nil {
			return
		}
		path, host := r.URL.Path, r.Host
		switch {
		case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			p.generativeService(w, r, request)
		case strings.HasPrefix(host, "bedrock-runtime."):
			p.bedrock(w, r, request)
		case host == openAIHost, host == mistralHost:
			p.openAI(w, r, request)
		case strings.HasPrefix(path, "/v1internal"):
			p.cloudCode(w, r, request)
		case strings.HasPrefix(path, "/v1beta/models"), strings.HasPrefix(path, "/v1/models"), strings.HasPrefix(path, "/v1alpha/models"):
			p.gemini(w, r, request)
		case strings.HasPrefix(path, "/v1/messages"):
			p.anthropic(w, r, request)
		default:
			writeJSON(w, 404, map[string]any{"error": map[string]any{"code": 404, "message": "no such path", "status": "NOT_FOUND"}})
		}
	})
}

func (p *provider) open(w http.ResponseWriter, r *http.Request, dialect, operation string) *call {
	return &call{p: p, w: w, r: r, record: answerRecord{
		Host: r.Host, SNI: serverName(r), Path: r.URL.RequestURI(), Proto: r.Proto, Remote: r.RemoteAddr,
		Dialect: dialect, Operation: operation, HTTPStatus: 200,
	}}
}

// compose decides the answer and waits as ordered; false when it has already answered with an error.
func (c *call) compose(model, prompt string, requestBytes int, refuse func(*call, int)) bool {
	o := c.p.orders.forPrompt(prompt)
	c.record.RequestModel = model
	if o.WaitMs > 0 {
		time.Sleep(time.Duration(o.WaitMs) * time.Millisecond)
	}
	c.answer = compose(model, prompt, requestBytes, o)
	if o.Status >= 400 {
		c.record.HTTPStatus = o.Status
		refuse(c, o.Status)
		c.record.Complete = c.r.Context().Err() == nil
		c.p.account.addAnswer(c.record)
		return false
	}
	c.record.ResponseModel, c.record.ResponseID = c.answer.version, c.answer.id
	return true
}

// stream sends events one by one, obeying the orders, and closes the account of the call.
//
// Each event comes with the usage object inside it, nil for none, and the counts that it stands for.
func (c *call) stream(b sink, events []event, errorBody string) {
	o := c.answer.orders
	broken := false
	for i, e := range events {
		if i > 0 {
			b.pause(c.delay())
		}
		if o.StallMs > 0 && i == len(events)/2 {
			b.pause(time.Duration(o.StallMs) * time.Millisecond)
		}
		if o.Cut > 0 && i == o.Cut {
			broken = true
			break
		}
		if o.ErrorAfter > 0 && i == o.ErrorAfter {
			b.send(errorBody)
			c.record.Error = "mid-stream"
			break
		}
		if !b.send(e.text) {
			break
		}
		c.record.EventsSent++
		if e.usage != nil {
			c.record.Usage, c.record.Counts = e.usage, e.counts
		}
		if e.finish != "" {
			c.record.FinishReason = e.finish
		}
	}
	if broken {
		c.p.account.addAnswer(c.record)
		panic(http.ErrAbortHandler) // net/http's way to break a connection: no zero chunk, or RST_STREAM
	}
	c.record.Complete = b.end()
	c.p.account.addAnswer(c.record)
}

// event is a piece of a stream: its bytes on the wire, what it is called there, the usage inside, and what that means.
type event struct {
	text   string
	kind   string
	usage  map[string]any
	counts map[string]int
	finish string
}

// whole sends a body that is no stream.
func (c *call) whole(body any, e event) {
	c.stream(c.openBody("application/json; charset=UTF-8"), []event{{text: marshal(body), usage: e.usage, counts: e.counts, finish: e.finish}}, "")
}

// asServerSentEvents frames events whose text is JSON.
func asServerSentEvents(events []event) []event {
	for i, e := range events {
		events[i].text = "data: " + e.text + "\n\n"
		if e.kind != "" {
			events[i].text = "event: " + e.kind + "\n" + events[i].text
		}
	}
	return events
}

func (c *call) delay() time.Duration {
	if c.answer.orders.DelayMs > 0 {
		return time.Duration(c.answer.orders.DelayMs) * time.Millisecond
	}
	return c.p.options.delay
}

func marshal(value any) string {
	text, err := json.Marshal(value)
	must(err)
	return string(text)
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, marshal(value))
}

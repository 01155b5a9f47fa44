// The account of what was sent, and the control port that shows it.
//
//	GET    /answers?after=N    {"answers": [record, …]}: model answers whose handling is over, in order, numbered from 1
//	GET    /requests?after=N   {"requests": [record, …]}: every request, model calls included, as they arrived; those
//	                           that a WebSocket carries have its head, and "response.create" or "warm-up" as method
//	POST   /orders             {"status": 503, "times": 2} and so on: for the next model calls, see orders.go
//	DELETE /orders             forget them
//
// An answer's record:
//
//	number, at             in order of their end
//	host, sni, path        as the client said them; proto is HTTP/1.1 or HTTP/2.0; remote is the client's address
//	dialect, operation     the API, such as google-cloudcode or bedrock-converse; stream, whole or socket
//	http_status, error     of an error answer: the provider's word, such as RESOURCE_EXHAUSTED
//	request_model, response_model, response_id, trace_id, conversation_id, request_id, finish_reason
//	usage                  the last usage object that was sent whole, in the provider's own names; null if none was
//	counts                 the same in Wiremeter's names, as the ledger must have them
//	events_sent, complete  complete: every byte of the answer was handed over and the client had not gone
//	coded                  whether it was compressed: gzip, or permessage-deflate
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

type answerRecord struct {
	Number         int            `json:"number"`
	At             string         `json:"at"`
	Host           string         `json:"host"`
	SNI            string         `json:"sni"`
	Path           string         `json:"path"`
	Proto          string         `json:"proto"`
	Remote         string         `json:"remote"`
	Dialect        string         `json:"dialect"`
	Operation      string         `json:"operation"`
	HTTPStatus     int            `json:"http_status"`
	Error          string         `json:"error,omitempty"`
	RequestModel   string         `json:"request_model"`
	ResponseModel  string         `json:"response_model,omitempty"`
	ResponseID     string         `json:"response_id,omitempty"`
	TraceID        string         `json:"trace_id,omitempty"`
	ConversationID string         `json:"conversation_id,omitempty"`
	RequestID      string         `json:"request_id,omitempty"`
	FinishReason   string         `json:"finish_reason,omitempty"`
	Usage          map[string]any `json:"usage"`
	Counts         map[string]int `json:"counts"`
	EventsSent     int            `json:"events_sent"`
	Complete       bool           `json:"complete"`
	Coded          bool           `json:"coded"`
}

type requestRecord struct {
	Number    int    `json:"number"`
	At        string `json:"at"`
	Method    string `json:"method"`
	Host      string `json:"host"`
	SNI       string `json:"sni"`
	Path      string `json:"path"`
	Proto     string `json:"proto"`
	Remote    string `json:"remote"`
	UserAgent string `json:"user_agent"`
}

type account struct {
	mu       sync.Mutex
	answers  []answerRecord
	requests []requestRecord
	log      *os.File
}

func openAccount(path string) (*account, error) {
	if path == "" {
		return &account{}, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	return &account{log: f}, err
}

func (a *account) addAnswer(record answerRecord) {
	a.mu.Lock()
	defer a.mu.Unlock()
	record.Number, record.At = len(a.answers)+1, now()
	a.answers = append(a.answers, record)
	a.write("answer", record)
}

func (a *account) addRequest(r *http.Request, method string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	record := requestRecord{
		Number: len(a.requests) + 1, At: now(), Method: method, Host: r.Host, SNI: serverName(r), Path: r.URL.RequestURI(),
		Proto: r.Proto, Remote: r.RemoteAddr, UserAgent: r.UserAgent(),
	}
	a.requests = append(a.requests, record)
	a.write("request", record)
}

func (a *account) write(kind string, record any) {
	if a.log == nil {
		return
	}
	line, err := json.Marshal(map[string]any{kind: record})
	must(err)
	_, err = a.log.Write(append(line, '\n'))
	must(err)
}

func (p *provider) controlRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/answers", func(w http.ResponseWriter, r *http.Request) {
		p.account.mu.Lock()
		defer p.account.mu.Unlock()
		writeJSON(w, 200, map[string]any{"answers": after(p.account.answers, r)})
	})
	mux.HandleFunc("/requests", func(w http.ResponseWriter, r *http.Request) {
		p.account.mu.Lock()
		defer p.account.mu.Unlock()
		writeJSON(w, 200, map[string]any{"requests": after(p.account.requests, r)})
	})
	mux.HandleFunc("/orders", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			p.orders.setStanding(nil)
		} else {
			var standing orders
			if err := json.NewDecoder(r.Body).Decode(&standing); err != nil {
				http.Error(w, err.Error(), 400)
				return
			}
			p.orders.setStanding(&standing)
		}
		writeJSON(w, 200, map[string]any{})
	})
	return mux
}

func after[T any](records []T, r *http.Request) []T {
	n, _ := strconv.Atoi(r.URL.Query().Get("after"))
	if n < 0 || n > len(records) {
		n = len(records)
	}
	return append([]T{}, records[n:]...)
}

func serverName(r *http.Request) string {
	if r.TLS == nil {
		return ""
	}
	return r.TLS.ServerName
}

func now() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000000Z") }

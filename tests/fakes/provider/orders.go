// Orders say how a model call is to be answered. They stand in the prompt's last user text, in double brackets, or
// come by `POST /orders` of the control port under the same names as JSON members, for the next `times` model calls.
//
//	[[status 429]]             answer with this HTTP status and the provider's error body
//	[[status 503 times 2]]     only the first two calls with this very text; the third succeeds
//	[[reason TOS_VIOLATION]]   the reason inside a 403
//	[[say pong]]               answer with exactly this text
//	[[events 40]]              text events of the stream (default 4)
//	[[delay 50ms]]             between two events
//	[[wait 2s]]                before the response head
//	[[stall 5s]]               in the middle of the stream
//	[[cut 3]]                  break the connection after this many events
//	[[error-after 2]]          send the error body in the middle of the stream, after this many events
//	[[thoughts 100]]           thinking tokens; 0 leaves thinking out
//	[[no-usage]]               report no usage at all
//	[[max-tokens]]             finish for length
//	[[blocked]]                refuse the prompt (Gemini promptFeedback, Anthropic refusal, OpenAI content_filter)
//
// A WebSocket is opened before there is a prompt: "refuse_socket": 426, a standing order only, answers that with a status.
package main

import (
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

type orders struct {
	Status     int    `json:"status"`
	Times      int    `json:"times"`
	Reason     string `json:"reason"`
	Say        string `json:"say"`
	Events     int    `json:"events"`
	DelayMs    int    `json:"delay_ms"`
	WaitMs     int    `json:"wait_ms"`
	StallMs    int    `json:"stall_ms"`
	Cut        int    `json:"cut"`
	ErrorAfter int    `json:"error_after"`
	Thoughts   *int   `json:"thoughts"`
	NoUsage    bool   `json:"no_usage"`
	MaxTokens  bool   `json:"max_tokens"`
	Blocked    bool   `json:"blocked"`

	RefuseSocket int `json:"refuse_socket"`
}

// orderBook remembers how often an order with `times` was carried out.
type orderBook struct {
	mu       sync.Mutex
	done     map[string]int
	standing *orders
}

func newOrderBook() *orderBook { return &orderBook{done: map[string]int{}} }

func (b *orderBook) setStanding(o *orders) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.standing = o
}

// refusalOfSockets is the status with which a WebSocket is refused, 0 when it is not.
func (b *orderBook) refusalOfSockets() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.standing == nil {
		return 0
	}
	return b.standing.RefuseSocket
}

var orderPattern = regexp.MustCompile(`\[\[([a-z-]+)((?: [^\]]*)?)\]\]`)

// forPrompt takes the orders for a model call.
func (b *orderBook) forPrompt(prompt string) orders {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := parseOrders(prompt)
	if b.standing != nil {
		o = *b.standing
		if b.standing.Times > 0 {
			b.standing.Times--
			if b.standing.Times == 0 {
				b.standing = nil
			}
		}
		return o
	}
	if o.Times > 0 {
		b.done[prompt]++
		if b.done[prompt] > o.Times {
			o.Status, o.Cut, o.ErrorAfter = 0, 0, 0
		}
	}
	return o
}

func parseOrders(prompt string) orders {
	var o orders
	for _, match := range orderPattern.FindAllStringSubmatch(prompt, -1) {
		argument := strings.TrimSpace(match[2])
		words := strings.Fields(argument)
		first := 0
		if len(words) > 0 {
			first, _ = strconv.Atoi(words[0])
		}
		if len(words) == 3 && words[1] == "times" {
			o.Times, _ = strconv.Atoi(words[2])
		}
		switch match[1] {
		case "status":
			o.Status = first
		case "reason":
			o.Reason = argument
		case "say":
			o.Say = argument
		case "events":
			o.Events = first
		case "delay":
			o.DelayMs = milliseconds(argument)
		case "wait":
			o.WaitMs = milliseconds(argument)
		case "stall":
			o.StallMs = milliseconds(argument)
		case "cut":
			o.Cut = first
		case "error-after":
			o.ErrorAfter = first
		case "thoughts":
			o.Thoughts = &first
		case "no-usage":
			o.NoUsage = true
		case "max-tokens":
			o.MaxTokens = true
		case "blocked":
			o.Blocked = true
		}
	}
	return o
}

func milliseconds(text string) int {
	d, _ := time.ParseDuration(text)
	return int(d / time.Millisecond)
}

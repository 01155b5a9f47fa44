package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// conversation is one cascade: its steps and its status, and a channel that is closed at each change.
type conversation struct {
	s                *server
	id, trajectoryID string
	created          time.Time

	mu          sync.Mutex
	changed     chan struct{}
	status      string // IDLE, RUNNING, CANCELING
	steps       []*step
	queue       []object
	stop        context.CancelFunc
	interaction chan bool // one answer for the step that waits
	refusals    int       // "input not registered" answers still to give
	turns       int
}

// step is one step of the trajectory; revision grows with each change of it.
type step struct {
	revision int
	content  object
}

func newConversation(id string, s *server) *conversation {
	return &conversation{
		s: s, id: id, trajectoryID: newUUID(), created: time.Now(), changed: make(chan struct{}), status: "IDLE",
		interaction: make(chan bool, 1),
	}
}

// tell wakes all who follow; the lock is held.
func (c *conversation) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *conversation) setStatus(status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
	c.tell()
}

// add appends a step and returns its index.
func (c *conversation) add(kind, status, member string, content object) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	index := len(c.steps)
	source := "CORTEX_STEP_SOURCE_MODEL"
	if kind == "USER_INPUT" {
		source = "CORTEX_STEP_SOURCE_USER_EXPLICIT"
	}
	now := timestamp(time.Now())
	c.steps = append(c.steps, &step{revision: 1, content: object{
		"type": "CORTEX_STEP_TYPE_" + kind, "status": "CORTEX_STEP_STATUS_" + status, member: content,
		"metadata": object{
			"createdAt": now, "viewableAt": now, "source": source,
			"sourceTrajectoryStepInfo": object{"trajectoryId": c.trajectoryID, "stepIndex": index, "cascadeId": c.id},
		},
	}})
	c.tell()
	return index
}

// change lets f change a step.
func (c *conversation) change(index int, f func(content object)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps[index].revision++
	f(c.steps[index].content)
	c.tell()
}

// snapshot copies what a follower has not seen; seen holds the revisions it has.
func (c *conversation) snapshot(seen map[int]int, first bool) (update object, changed <-chan struct{}, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	indices, steps := []int{}, []object{}
	for i, s := range c.steps {
		if first || seen[i] != s.revision {
			seen[i] = s.revision
			indices = append(indices, i)
			steps = append(steps, forStream(s.content))
		}
	}
	update = object{
		"conversationId": c.id, "trajectoryId": c.trajectoryID, "status": "CASCADE_RUN_STATUS_" + c.status,
		"executableStatus": "CASCADE_RUN_STATUS_" + c.status, "executorLoopStatus": "CASCADE_RUN_STATUS_" + c.status,
	}
	if c.status == "IDLE" && !c.s.faults.has("no-fully-idle") {
		update["fullyIdle"] = true
	}
	if len(indices) > 0 || first {
		update["mainTrajectoryUpdate"] = object{"stepsUpdate": object{"indices": indices, "steps": steps, "totalLength": len(c.steps)}}
	}
	return update, c.changed, len(indices) > 0
}

// forStream copies a step without the members that only the trajectory has.
func forStream(content object) object {
	copied := clone(content)
	if planner, ok := copied["plannerResponse"].(object); ok {
		delete(planner, "response")
	}
	return copied
}

func clone(value object) object {
	copied := make(object, len(value))
	for name, member := range value {
		if inner, ok := member.(object); ok {
			copied[name] = clone(inner)
		} else {
			copied[name] = member
		}
	}
	return copied
}

// follow streams updates until the client goes away, or a fault says so.
func (c *conversation) follow(ctx context.Context, out frames) {
	seen := map[int]int{}
	before := c.length()
	update, changed, _ := c.snapshot(seen, true)
	out.send(object{"update": update})
	sent := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		update, changed, _ = c.snapshot(seen, false)
		out.send(object{"update": update})
		sent++
		if c.length() > before+2 && sent > 4 {
			if c.s.faults.has("trailer-error") {
				out.end(rpcErrorf("internal", "stream broken"))
				return
			}
			if c.s.faults.has("stream-cut") {
				panic(http.ErrAbortHandler)
			}
		}
	}
}

func (c *conversation) length() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.steps)
}

func (c *conversation) trajectory() object {
	c.mu.Lock()
	defer c.mu.Unlock()
	steps := []object{}
	for _, s := range c.steps {
		steps = append(steps, clone(s.content))
	}
	return object{
		"trajectory": object{
			"trajectoryId": c.trajectoryID, "cascadeId": c.id, "trajectoryType": "CORTEX_TRAJECTORY_TYPE_CASCADE", "steps": steps,
			"metadata": object{"createdAt": timestamp(c.created)},
		},
		"status": "CASCADE_RUN_STATUS_" + c.status, "numTotalSteps": len(steps),
	}
}

// stepsFrom tolerates an offset past the end, as "new" builds do.
func (c *conversation) stepsFrom(offset int) object {
	steps := c.trajectory()["trajectory"].(object)["steps"].([]object)
	if offset < 0 || offset > len(steps) {
		offset = len(steps)
	}
	return object{"steps": steps[offset:]}
}

func (c *conversation) summary() object {
	c.mu.Lock()
	defer c.mu.Unlock()
	return object{
		"summary": "A conversation", "stepCount": len(c.steps), "trajectoryId": c.trajectoryID,
		"status": "CASCADE_RUN_STATUS_" + c.status, "createdTime": timestamp(c.created),
	}
}

func (c *conversation) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		c.status = "CANCELING"
		c.tell()
		c.stop()
	}
}

func (c *conversation) waitIdle(request object) object {
	limit := 60 * time.Second
	if seconds, ok := request["inactivityTimeoutSeconds"].(float64); ok && seconds > 0 {
		limit = time.Duration(seconds * float64(time.Second))
	}
	deadline := time.After(limit)
	for {
		c.mu.Lock()
		idle, changed := c.status == "IDLE", c.changed
		c.mu.Unlock()
		if idle {
			return object{}
		}
		select {
		case <-changed:
		case <-deadline:
			return object{"timedOut": true}
		}
	}
}

// interact answers the step that waits.
func (c *conversation) interact(request object) (object, *rpcError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusals > 0 {
		c.refusals--
		return nil, rpcErrorf("internal", fmt.Sprintf("input not registered for step %v", at(request, "interaction", "stepIndex")))
	}
	if at(request, "interaction", "runCommand") == nil {
		return nil, rpcErrorf("invalid_argument", "interaction does not fit the step")
	}
	confirm, _ := at(request, "interaction", "runCommand", "confirm").(bool)
	select {
	case c.interaction <- confirm:
	default:
	}
	return object{}, nil
}

func timestamp(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

func newUUID() string {
	var b [16]byte
	must(rand.Read(b[:]))
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

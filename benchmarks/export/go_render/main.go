// Renders dialogues with Go's own text/template, as Ollama does before a chat: neighbours of one role joined by an
// empty line, then the template over .Messages. Reads JSON lines {"template", "messages"}, writes JSON lines {"text"}.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type order struct {
	Template string    `json:"template"`
	Messages []message `json:"messages"`
}

func joined(messages []message) []*message {
	var turns []*message
	for _, m := range messages {
		if last := len(turns) - 1; last >= 0 && turns[last].Role == m.Role {
			turns[last].Content += "\n\n" + m.Content
			continue
		}
		turns = append(turns, &message{m.Role, m.Content})
	}
	return turns
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	parsed := map[string]*template.Template{}
	for in.More() {
		var o order
		if err := in.Decode(&o); err != nil {
			panic(err)
		}
		t := parsed[o.Template]
		if t == nil {
			t = template.Must(template.New("").Option("missingkey=zero").Parse(o.Template))
			parsed[o.Template] = t
		}
		var text strings.Builder
		if err := t.Execute(&text, map[string]any{"Messages": joined(o.Messages)}); err != nil {
			panic(err)
		}
		if err := out.Encode(map[string]string{"text": text.String()}); err != nil {
			panic(err)
		}
	}
}

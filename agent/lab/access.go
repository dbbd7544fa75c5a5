package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// configPath is where `skein` keeps its contexts.
func configPath() (string, error) {
	if path := os.Getenv("SKEIN_CONFIG"); path != "" {
		return filepath.Abs(path)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fault("set SKEIN_CONFIG to a file of your own", "find the home folder: %v", err)
	}
	return filepath.Join(home, ".config", "skein", "config.json"), nil
}

// access gives the person a context for the lab, with a token that may do
// everything, and selects it.
func (l *Lab) access(ctx context.Context) error {
	path, err := configPath()
	if err != nil {
		return err
	}
	config, err := readConfig(path)
	if err != nil {
		return err
	}
	name := "lab"
	if l.Name != defaultName {
		name = "lab-" + l.Name
	}
	server := fmt.Sprintf("https://127.0.0.1:%d", l.Port)
	at := slices.IndexFunc(config.GetContexts(), func(c *skeinv1.ClientContext) bool { return c.GetName() == name })
	ours := at >= 0 && l.Context == name && l.ConfigPath == path
	if !ours {
		token, err := l.createToken(ctx, "admin")
		if err != nil {
			return err
		}
		made := &skeinv1.ClientContext{Name: name, CaPem: token.GetCaPem(), Token: token.GetToken()}
		if at < 0 {
			at = len(config.GetContexts())
			config.Contexts = append(config.Contexts, made)
		}
		config.Contexts[at] = made // in place of a lab's that went without `down`
		if config.GetCurrent() != name {
			l.Previous = config.GetCurrent()
		}
		l.ConfigPath, l.Context = path, name
	}
	config.Contexts[at].Server = server
	config.Current = name
	return errors.Join(writeConfig(path, config), l.save())
}

// forget removes the context, and selects the one that was selected before.
func (l *Lab) forget(context.Context) error {
	if l.Context == "" {
		return nil
	}
	config, err := readConfig(l.ConfigPath)
	if err != nil {
		return err
	}
	before := len(config.GetContexts())
	config.Contexts = slices.DeleteFunc(config.GetContexts(), func(c *skeinv1.ClientContext) bool { return c.GetName() == l.Context })
	if config.GetCurrent() == l.Context {
		config.Current = ""
		if slices.ContainsFunc(config.GetContexts(), func(c *skeinv1.ClientContext) bool { return c.GetName() == l.Previous }) {
			config.Current = l.Previous
		}
	}
	switch {
	case len(config.GetContexts()) == before:
		return nil // the person has removed it
	case len(config.GetContexts()) == 0:
		if err := os.Remove(l.ConfigPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the last context: %w", err)
		}
		_ = os.Remove(filepath.Dir(l.ConfigPath)) // where nothing else is in it
		return nil
	}
	return writeConfig(l.ConfigPath, config)
}

func readConfig(path string) (*skeinv1.ClientConfig, error) {
	config := &skeinv1.ClientConfig{}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read contexts: %w", err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, config); err != nil {
		return nil, fault("repair or remove that file", "read contexts in %s: %v", path, err)
	}
	return config, nil
}

func writeConfig(path string, config *skeinv1.ClientConfig) error {
	raw, err := protojson.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, raw, "", "  "); err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	text.WriteByte('\n')
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep contexts: %w", err)
	}
	return writeAside(path, text.Bytes())
}

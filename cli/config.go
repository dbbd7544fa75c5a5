package cli

import (
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

// configPath is where contexts are kept: $SKEIN_CONFIG, or a file in the home
// folder on every system.
func configPath() (string, error) {
	if path := os.Getenv("SKEIN_CONFIG"); path != "" {
		return path, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", failed("set SKEIN_CONFIG to a file of your own", "find the home folder: %s", err)
	}
	return filepath.Join(home, ".config", "skein", "config.json"), nil
}

// loadConfig reads the contexts; a file that is not there holds none.
func loadConfig() (*skeinv1.ClientConfig, error) {
	path, err := configPath()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &skeinv1.ClientConfig{}, nil
	}
	if err != nil {
		return nil, failed("", "read contexts: %s", err)
	}
	config := &skeinv1.ClientConfig{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, config); err != nil {
		return nil, failed("repair or remove that file", "read contexts in %s: %s", path, err)
	}
	return config, nil
}

// saveConfig replaces the file as a whole, readable by its owner alone: it
// holds tokens.
func saveConfig(config *skeinv1.ClientConfig) error {
	path, err := configPath()
	if err != nil {
		return err
	}
	data, err := marshalConfig(config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep contexts: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".config-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("keep contexts: %w", err)
	}
	defer func() { _ = os.Remove(temp.Name()) }() // it has its name by then, or failed
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return fmt.Errorf("keep contexts: %w", err)
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return fmt.Errorf("keep contexts: %w", err)
	}
	return nil
}

// marshalConfig writes plain indented JSON: protojson varies its white space on
// purpose, and people read this file.
func marshalConfig(config *skeinv1.ClientConfig) ([]byte, error) {
	raw, err := protojson.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode contexts: %w", err)
	}
	return indentJSON(raw)
}

func indentJSON(raw []byte) ([]byte, error) {
	var value json.RawMessage = raw
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return append(data, '\n'), nil
}

func findContext(config *skeinv1.ClientConfig, name string) (*skeinv1.ClientContext, bool) {
	i := slices.IndexFunc(config.GetContexts(), func(c *skeinv1.ClientContext) bool { return c.GetName() == name })
	if i < 0 {
		return nil, false
	}
	return config.GetContexts()[i], true
}

func contextNames(config *skeinv1.ClientConfig) []string {
	var names []string
	for _, c := range config.GetContexts() {
		names = append(names, c.GetName())
	}
	return names
}

func noSuchContext(config *skeinv1.ClientConfig, name string) error {
	hint := "skein ctx ls"
	if near := nearest(name, contextNames(config)); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return usageError(hint, "there is no context %q", name)
}

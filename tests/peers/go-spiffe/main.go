// The independent SPIFFE peer of the tests: go-spiffe as client, server and verifier. A program of
// its own, driven by the tests of federation/bundle-endpoint, of federation/workload-api and of the
// programs; it says one JSON object per line.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

var commands = map[string]func(arguments []string) error{
	"fetch":  fetch,
	"watch":  watch,
	"serve":  serve,
	"parse":  parse,
	"verify": verify,
	"mint":   mint,

	"workload-api": serveWorkloads,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: go-spiffe fetch|watch|serve|parse|verify|mint|workload-api ...")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		say(map[string]any{"error": err.Error()})
		os.Exit(1)
	}
}

func say(what any) {
	if err := json.NewEncoder(os.Stdout).Encode(what); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// Package labtest is the acceptance suite: it raises labs with the real programs,
// does to them what a person and the world do, and checks what that person sees
// and what the kernel shows. It owns nothing but tests, and those run only when
// asked for: "make lab-test", as root, or
//
//	go test -tags lab -count=1 ./agent/lab/labtest
//
// SKEIN_BIN names the folder of the programs, if it is not bin.
package labtest

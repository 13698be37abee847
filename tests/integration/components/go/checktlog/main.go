// Checktlog checks a log's checkpoints, proofs and tiles with Go's own sumdb packages, which know nothing of keytrail.
//
//	checktlog checkpoint KEY NOTE
//	checktlog inclusion KEY PROOF RECORD
//	checktlog consistency KEY OLD-NOTE NOTE PROOF
//	checktlog tiles KEY PREFIX-URL INDEX RECORD
//
// KEY is a verifier key, the others are files; PREFIX-URL is where a log is served by C2SP tlog-tiles. It exits 1 where
// something does not hold, with the reason.
package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) < 4 {
		fail(fmt.Errorf("usage: checktlog checkpoint|inclusion|consistency|tiles KEY …"))
	}
	verifier, err := note.NewVerifier(os.Args[2])
	fail(err)
	arguments := os.Args[3:]
	switch os.Args[1] {
	case "checkpoint":
		tree := open(verifier, read(arguments[0]))
		fmt.Printf("a tree of %d with root %s\n", tree.N, tree.Hash)
	case "inclusion":
		inclusion(verifier, string(read(arguments[0])), read(arguments[1]))
	case "consistency":
		consistency(verifier, read(arguments[0]), read(arguments[1]), string(read(arguments[2])))
	case "tiles":
		index, err := strconv.ParseInt(arguments[1], 10, 64)
		fail(err)
		tiles(verifier, arguments[0], index, read(arguments[2]))
	default:
		fail(fmt.Errorf("no such check: %s", os.Args[1]))
	}
}

// open gives the tree of a checkpoint that the verifier's key signed.
func open(verifier note.Verifier, text []byte) tlog.Tree {
	opened, err := note.Open(text, note.VerifierList(verifier))
	fail(err)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		fail(fmt.Errorf("the note is no checkpoint of %s", verifier.Name()))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	fail(err)
	return tlog.Tree{N: size, Hash: parse(lines[2])}
}

// inclusion checks a C2SP tlog-proof.
func inclusion(verifier note.Verifier, proof string, record []byte) {
	head, checkpoint, found := strings.Cut(proof, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "index ") {
		fail(fmt.Errorf("not a tlog-proof"))
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	fail(err)
	tree := open(verifier, []byte(checkpoint))
	fail(tlog.CheckRecord(hashes(lines[2:]), tree.N, tree.Hash, index, tlog.RecordHash(record)))
	fmt.Printf("record %d is in a tree of %d\n", index, tree.N)
}

func consistency(verifier note.Verifier, old, new []byte, proof string) {
	before, after := open(verifier, old), open(verifier, new)
	fail(tlog.CheckTree(hashes(strings.Fields(proof)), after.N, after.Hash, before.N, before.Hash))
	fmt.Printf("a tree of %d begins with that of %d\n", after.N, before.N)
}

// tiles makes the proofs itself, from tiles that it fetches and checks against the checkpoint.
func tiles(verifier note.Verifier, prefix string, index int64, record []byte) {
	tree := open(verifier, get(prefix+"/checkpoint"))
	reader := tlog.TileHashReader(tree, &fetcher{prefix})
	proof, err := tlog.ProveRecord(tree.N, index, reader)
	fail(err)
	fail(tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(record)))
	fmt.Printf("record %d is in a tree of %d, by its tiles\n", index, tree.N)
}

// fetcher reads tiles as C2SP names them; Go's own names have the height in them too.
type fetcher struct{ prefix string }

func (f *fetcher) Height() int { return 8 }

func (f *fetcher) SaveTiles([]tlog.Tile, [][]byte) {}

func (f *fetcher) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range wanted {
		data = append(data, get(f.prefix+"/tile/"+strings.TrimPrefix(tile.Path(), "tile/8/")))
	}
	return data, nil
}

func get(url string) []byte {
	response, err := http.Get(url)
	fail(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	fail(err)
	if response.StatusCode != http.StatusOK {
		fail(fmt.Errorf("%s: %s", url, response.Status))
	}
	return body
}

func hashes(lines []string) []tlog.Hash {
	var found []tlog.Hash
	for _, line := range lines {
		found = append(found, parse(line))
	}
	return found
}

func parse(text string) tlog.Hash {
	data, err := base64.StdEncoding.DecodeString(text)
	fail(err)
	var hash tlog.Hash
	if len(data) != len(hash) {
		fail(fmt.Errorf("%q is no hash", text))
	}
	copy(hash[:], data)
	return hash
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	fail(err)
	return data
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

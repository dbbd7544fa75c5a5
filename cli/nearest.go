package cli

// nearest returns the word that was probably meant by a mistyped one: at most
// a third of its letters away (one, of a short word), or "".
func nearest(typed string, words []string) string {
	best, least := "", max(1, len(typed)/3)
	for _, word := range words {
		if d := distance(typed, word); d <= least && d < len(word) && (best == "" || d < least) {
			best, least = word, d
		}
	}
	return best
}

// distance counts the letters to insert, drop, replace or swap with their
// neighbour to turn a into b (optimal string alignment).
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		row, above, twoAbove := rows[i%3], rows[(i+2)%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], twoAbove[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}

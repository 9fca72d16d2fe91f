package server

const (
	auditPiece  = 256 // records that room is made for at a time
	auditSpares = 32  // pieces whose room is kept for others
)

// An auditQueue holds the records that wait. It grows by pieces: a slice that doubles
// would copy what a slow disk lets pile up, in the time of whoever adds to it. The
// auditor's mu guards it.
type auditQueue struct {
	pieces [][]auditRecord
	spares [][]auditRecord // empty
	n      int
}

func (q *auditQueue) push(r auditRecord) {
	last := len(q.pieces) - 1
	if last < 0 || len(q.pieces[last]) == auditPiece {
		var piece []auditRecord
		if n := len(q.spares); n > 0 {
			piece, q.spares = q.spares[n-1], q.spares[:n-1]
		} else {
			piece = make([]auditRecord, 0, auditPiece)
		}
		q.pieces = append(q.pieces, piece)
		last++
	}
	q.pieces[last] = append(q.pieces[last], r)
	q.n++
}

// take empties the queue and returns what was in it.
func (q *auditQueue) take() (pieces [][]auditRecord, n int) {
	pieces, n = q.pieces, q.n
	q.pieces, q.n = nil, 0
	return pieces, n
}

// reuse keeps the room of a piece that is written.
func (q *auditQueue) reuse(piece []auditRecord) {
	if len(q.spares) < auditSpares {
		q.spares = append(q.spares, piece[:0])
	}
}

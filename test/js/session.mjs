// Sessions by an unmodified ws. Standard input is a JSON list of cases:
//   [{ name, url, protocols, steps: [{ do, ... }] }]
// A step sends a message in fragments, pings, waits for a message or closes. For each case one JSON line tells what
// the client saw: { event: "case", name, seen: [{ kind, text, data, code, reason }] }, data in hexadecimal.
import WebSocket from 'ws'

const chunks = []
for await (const chunk of process.stdin) chunks.push(chunk)
for (const job of JSON.parse(Buffer.concat(chunks))) {
  console.log(JSON.stringify({ event: 'case', name: job.name, seen: await run(job) }))
}

async function run(job) {
  const seen = []
  const waiting = []
  let wake = () => {}
  const put = (e) => {
    waiting.push(e)
    wake()
  }
  // take waits for the next event of a kind, or for the end.
  const take = async (kind) => {
    for (const end = Date.now() + 60_000; Date.now() < end; ) {
      const at = waiting.findIndex((e) => e.kind === kind || e.kind === 'closed' || e.kind === 'refused')
      if (at >= 0) return waiting.splice(at, 1)[0]
      await new Promise((done) => {
        wake = done
        setTimeout(done, 1000)
      })
    }
    return { kind: 'nothing' }
  }
  const ws = new WebSocket(job.url, job.protocols ?? [], { perMessageDeflate: true })
  ws.on('open', () => put({ kind: 'open', data: ws.protocol, reason: ws.extensions }))
  ws.on('unexpected-response', (request, response) => put({ kind: 'refused', code: response.statusCode }))
  ws.on('message', (data, binary) => put({ kind: 'message', text: !binary, data: data.toString('hex') }))
  ws.on('pong', (data) => put({ kind: 'pong', data: data.toString('hex') }))
  ws.on('close', (code, reason) => put({ kind: 'closed', code, reason: reason.toString() }))
  ws.on('error', () => {})
  seen.push(await take('open'))
  for (const step of job.steps ?? []) {
    switch (step.do) {
      case 'send':
        step.parts.forEach((part, i) => {
          ws.send(Buffer.from(part, 'hex'), { binary: !step.text, fin: i === step.parts.length - 1, compress: false })
          if (step.ping && i < step.parts.length - 1) ws.ping(Buffer.from(step.ping, 'hex'))
        })
        break
      case 'ping':
        ws.ping(Buffer.from(step.data, 'hex'))
        seen.push(await take('pong'))
        break
      case 'expect':
        seen.push(await take('message'))
        break
      case 'close':
        if (step.code) ws.close(step.code, step.reason)
        else ws.close()
        seen.push(await take('closed'))
        break
      case 'closed':
        seen.push(await take('closed'))
        break
    }
  }
  ws.terminate()
  return seen
}

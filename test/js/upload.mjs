// One upload by an unmodified tus-js-client. The first argument is a JSON object:
//   { endpoint, token, path, source: "buffer" | "stream", chunkSize?, metadata?, retryDelays?, uploadUrl? }
// It prints one JSON line per event: url, progress, chunk, success, error. A line "abort" on standard input ends the
// upload with DELETE, "pause" stops it without.
import fs from 'node:fs'
import readline from 'node:readline'
import * as tus from 'tus-js-client'

const job = JSON.parse(process.argv[2])
const say = (event, rest = {}) => console.log(JSON.stringify({ event, ...rest }))
const size = fs.statSync(job.path).size
const source = {
  buffer: () => fs.readFileSync(job.path),
  stream: () => fs.createReadStream(job.path, { highWaterMark: 64 * 1024 }),
}[job.source]()

const upload = new tus.Upload(source, {
  endpoint: job.endpoint,
  uploadUrl: job.uploadUrl ?? null,
  uploadSize: size,
  chunkSize: job.chunkSize ?? Infinity,
  retryDelays: job.retryDelays ?? [0, 200, 500, 1000, 2000, 3000],
  metadata: job.metadata ?? { filename: 'from-tus.bin' },
  headers: { Authorization: `Bearer ${job.token}` },
  storeFingerprintForResuming: false,
  onUploadUrlAvailable: () => say('url', { url: upload.url }),
  onProgress: (sent, total) => say('progress', { sent, total }),
  onChunkComplete: (length, accepted, total) => say('chunk', { length, accepted, total }),
  onAfterResponse: (request, response) => {
    say('response', {
      method: request.getMethod(),
      status: response.getStatus(),
      offset: response.getHeader('Upload-Offset') ?? null,
    })
  },
  onSuccess: () => {
    say('success', { url: upload.url })
    process.exit(0)
  },
  onError: (error) => {
    let problem = null
    try {
      problem = JSON.parse(error.originalResponse?.getBody() ?? 'null')
    } catch {}
    say('error', { status: error.originalResponse?.getStatus() ?? 0, code: problem?.code ?? 0, message: String(error.message).slice(0, 300) })
    process.exit(1)
  },
})

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  if (line === 'abort' || line === 'pause') {
    try {
      await upload.abort(line === 'abort')
      say('aborted')
    } catch (error) {
      say('error', { message: `abort: ${error.message}`, status: error.originalResponse?.getStatus() ?? 0 })
    }
    process.exit(3)
  }
})
upload.start()

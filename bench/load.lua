-- wrk's side: plays the signed requests of a file in turn, and prints what it saw as JSON.
-- The file (first argument) has the target and the body on its first two lines, and then a request a line: its X-Number,
-- X-Amz-Date and Authorization, with tabs between them.

local prepared = {}
local turn = 0

function init(args)
  local lines = io.lines(args[1])
  local target, body = lines(), lines()
  for line in lines do
    local number, date, authorization = line:match("^(.-)\t(.-)\t(.*)$")
    prepared[#prepared + 1] = wrk.format("POST", "/", {
      ["Content-Type"] = "application/x-amz-json-1.1",
      ["X-Number"] = number,
      ["X-Amz-Target"] = target,
      ["X-Amz-Date"] = date,
      ["Authorization"] = authorization,
      ["User-Agent"] = "aws-cli/1.44.0 bench",
    }, body)
  end
end

function request()
  turn = turn % #prepared + 1
  return prepared[turn]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end

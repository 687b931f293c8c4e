-- Sends the requests of a folder in turn: N.body with the path and headers of `request`, a line each; the path is line
-- N + 1 of `paths` if there is one.
-- At the end it prints what happened as one line of JSON; latencies are in milliseconds.
local requests, number = {}, 0

function init(arguments)
  local folder = arguments[1]
  local lines = {}
  for line in io.lines(folder .. "/request") do lines[#lines + 1] = line end
  local headers = {}
  for position = 2, #lines do
    local name, value = lines[position]:match("^([^:]+): (.*)$")
    headers[name] = value
  end
  local paths = {}
  for line in io.lines(folder .. "/paths") do paths[#paths + 1] = line end
  for position = 0, math.huge do
    local file = io.open(folder .. "/" .. position .. ".body", "rb")
    if not file then break end
    requests[#requests + 1] = wrk.format("POST", paths[position + 1] or lines[1], headers, file:read("*a"))
    file:close()
  end
end

function request()
  number = number % #requests + 1
  return requests[number]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50": %.4f, "p95": %.4f, "p99": %.4f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3, errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end

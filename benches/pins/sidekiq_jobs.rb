# Sidekiq: the application, for `sidekiq -r sidekiq_jobs.rb`; started itself, the client that gives it jobs until the time is over and
# then prints one line of JSON. The server is in PINS_PORT, PINS_CA and PINS_PASSWORD, the time in PINS_SECONDS.
require "json"
require "sidekiq"
require "sidekiq/api"

SERVER = {
  url: "rediss://127.0.0.1:#{ENV.fetch("PINS_PORT")}/0", password: ENV.fetch("PINS_PASSWORD"), ssl_params: {ca_file: ENV.fetch("PINS_CA")}
}
PATIENCE = 30
CALLERS = 4

Sidekiq.configure_client { |config| config.redis = SERVER }
Sidekiq.configure_server do |config|
  config.redis = SERVER
  # Scheduled jobs and retries are looked for every second on average, not every five: the run is short.
  options = config.respond_to?(:[]=) ? config : Sidekiq.options
  options[:poll_interval_average] = 1
end

# Each job counts itself, so that the client sees when all it has given are done.
class Count
  include Sidekiq::Worker

  def perform(_name)
    Sidekiq.redis { |redis| redis.incr("jobs-done") }
  end
end

class Urgent < Count
  sidekiq_options queue: "critical"
end

class SecondTry < Count
  sidekiq_options retry: 2
  sidekiq_retry_in { 1 }

  def perform(name)
    first = Sidekiq.redis { |redis| redis.incr("tries:#{name}") } == 1
    raise "wanted failure" if first
    super
  end
end

def clock = Process.clock_gettime(Process::CLOCK_MONOTONIC)

# One round of a caller; returns how many jobs it has given.
def give(name, turn)
  given = 1
  ((turn % 3 == 0) ? Urgent : Count).perform_async(name)
  if turn % 4 == 0
    Count.perform_in(0.5, name)
    given += 1
  end
  if turn % 16 == 1
    SecondTry.perform_async(name)
    given += 1
  end
  given += Sidekiq::Client.push_bulk("class" => Count, "args" => [[name]] * 10).size if turn % 8 == 0
  look_around if turn % 8 == 1
  given
end

# What the dashboard and monitoring ask for.
def look_around
  Sidekiq::Stats.new.processed
  Sidekiq::Queue.all.map(&:size)
  Sidekiq::ProcessSet.new.map { |process| process["busy"] }
  Sidekiq::Workers.new.size
  Sidekiq::RetrySet.new.map(&:klass)
end

def client
  given, rounds, errors = Queue.new, Queue.new, Queue.new
  counted = -> { Sidekiq.redis { |redis| redis.get("jobs-done") }.to_i }
  # The workers may be starting still.
  given << give("first", 2)
  limit = clock + PATIENCE
  sleep 0.1 while counted.call == 0 && clock < limit
  finish = clock + Float(ENV.fetch("PINS_SECONDS"))
  callers = Array.new(CALLERS) do |me|
    Thread.new do
      turn = 0
      while clock < finish
        turn += 1
        begin
          given << give("#{me}-#{turn}", turn)
          rounds << turn
        rescue => error
          errors << "#{error.class}: #{error.message}"[0, 200]
        end
        sleep 0.05
      end
    end
  end
  callers.each(&:join)
  wanted = Array.new(given.size) { given.pop }.sum
  limit = clock + PATIENCE
  sleep 0.1 while counted.call < wanted && clock < limit
  errors << "#{counted.call} jobs done of #{wanted}" if counted.call != wanted
  puts JSON.generate(done: rounds.size, errors: Array.new(errors.size) { errors.pop }, version: "Sidekiq #{Sidekiq::VERSION}")
end

client if $PROGRAM_NAME == __FILE__

package simulator

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// names are the first users; those after them get a number.
var names = strings.Fields(`charlie alice bob diana emma felix grace henry iris jack karen liam maya noah olivia peter quinn rosa sam tara
	uma victor wendy xavier yara zoe adam bella carlos dora elias fiona george hanna ivan julia kofi lena marco nina oscar paula rafael sara tom
	ursula vera will ximena yusuf anouk boris chloe daniel elif farid gina hugo ines jonas`)

func userName(i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s%d", names[i%len(names)], i/len(names)+1)
}

// topics are the words that rise. Nothing else here contains them, so their use is known.
var topics = strings.Fields(`deadline eclipse marathon outage volcano blackout festival strike penguin referendum heatwave jackpot snowstorm
	hackathon lottery parade pancakes fireworks comet blizzard promotion karaoke scooter takeover trophy tsunami unicorn waffles wildfire zeppelin`)

// phrases are what people say; each * is a word from nouns. There are many, so that no word of theirs looks like a trend.
var phrases = strings.Split(`Hello! How did the * turn out?
Morning! Any news on the *?
I finished the *, have a look.
Did you bring the *?
Where did we leave the *?
My * broke this week, sigh.
Let's discuss the * at noon.
Fancy a walk by the *?
I found a * in the *.
Could you send me the *?
The * looks fantastic.
Remember to book the *.
Who ordered the *?
We sold the old * last night.
It rained on my * all morning.
Meet you by the * at six.
Have you read about the *?
I'm cooking * for dinner.
She loves her new *.
He painted the * blue.
Our * arrived early.
There is a * on my *.
Two tickets for the * left!
I dreamt of a * wearing a *.
That * costs a fortune.
Happy birthday! A * for you.
The train is late, bring a *.
Can anyone fix a *?
Ask Maria, she owns a *.
Lunch first, then the *.
The kids built a * from a *.
No signal here, only a *.
Try the * with fresh *.
I lost my * on the bus.
Add a * to the list, okay?
Sunday is for the *.
Grandma sends a *.
What a lovely *!
Should we paint the *?
We won the * match, hooray!
Call me when the * opens.
The cat sleeps on the *.
I borrowed your *, hope that's fine.
Wear a *, it is cold.
Nobody expected a *.
They closed the * downtown.
Keep the *, I have two.
The * smells like *.
Wow, what a *.
My boss likes the *.`, "\n")

// rumours are how a rising word is used; each * is the word.
var rumours = strings.Split(`Did you hear about the *?
Let's discuss the * tonight.
The * is all over the news!
Seriously, a *?
I can't stop reading about the *.
My sister called about the *.
Is the * real?
Photos of the * please!
So the * happened.
I told you: *!
Our whole street talks * now.
* * *!!!`, "\n")

// pitches are what spammers repeat.
var pitches = strings.Split(`Cheap watches, order today!
You won! Claim it now!
Double your coins in one hour!
Hot deal, click the link!
Free shipping, final offer!
Lose weight while sleeping!`, "\n")

// nouns fill the phrases, the first ones most often.
var nouns = strings.Fields(`coffee meeting report garden movie pizza ticket guitar bicycle weekend budget recipe camera project beach album
	holiday laptop dinner museum concert flight hotel puzzle sweater invoice printer kitchen balcony podcast playlist novel umbrella
	sandwich bakery cinema theatre stadium library harbour mountain forest river island bridge castle market village airport station subway
	tractor balloon blanket candle carpet ceiling chimney cottage cupboard curtain drawer fridge fountain furnace hammer hallway ladder lamp
	lantern mattress mirror mixer needle oven pillow plate plumber radiator roof shelf shower sofa spoon stairs statue stove table teapot
	toaster towel tower trumpet vacuum violin wallet wardrobe window zipper almond apple apricot avocado banana basil biscuit blueberry
	broccoli butter cabbage carrot celery cheese cherry chocolate cinnamon coconut cookie cucumber custard garlic ginger grape honey
	ketchup lemon lentil lettuce mango melon mushroom mustard noodle olive onion orange papaya parsley peach peanut pepper pickle pineapple
	plum popcorn potato pudding pumpkin radish raisin raspberry salad salmon sausage spinach strawberry tomato vanilla walnut yogurt
	badger beaver beetle buffalo camel canary cheetah chicken cobra crab cricket dolphin donkey dragon eagle elephant falcon ferret flamingo
	giraffe goose hamster hedgehog heron hippo jaguar kangaroo kitten koala ladybird leopard lizard lobster magpie meerkat moose octopus
	ostrich otter panda panther parrot peacock pelican pigeon pony puffin puppy rabbit raccoon raven robin rooster seagull shark sparrow spider
	squirrel swallow swan tiger toucan turkey turtle walrus weasel wombat zebra anchor arrow badge banner basket beacon bottle bracelet
	brush bucket button cable calendar canvas compass crayon crown diary drum envelope feather fence flag flute frame glove goggles hat helmet
	jacket jigsaw kettle keyboard kite magnet marble medal notebook paddle paint parcel pencil piano pocket postcard poster purse rocket
	rope rucksack saddle sandal scarf scissors skateboard sledge slipper stamp string suitcase sunglasses telescope tent thermos tricycle
	trolley tunnel turbine typewriter vase wagon whistle wizard yacht`)

// talk makes what people say.
type talk struct{ zipf *rand.Zipf }

func newTalk(r *rand.Rand) talk {
	return talk{rand.NewZipf(r, 1.05, 20, uint64(len(nouns)-1))}
}

func (t talk) phrase(r *rand.Rand) string {
	p := phrases[r.IntN(len(phrases))]
	for strings.Contains(p, "*") {
		p = strings.Replace(p, "*", nouns[t.zipf.Uint64()], 1)
	}
	return p
}

// rumour returns a use of a rising word, and how often it has it.
func rumour(r *rand.Rand, word string) (string, int) {
	p := rumours[r.IntN(len(rumours))]
	return strings.ReplaceAll(p, "*", word), strings.Count(p, "*")
}

func pitch(r *rand.Rand) string { return pitches[r.IntN(len(pitches))] }
